"""What is made different from Celery's own, each with the reason."""
