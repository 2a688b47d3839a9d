"""Celery only: the app, thin tasks, the schedule."""
