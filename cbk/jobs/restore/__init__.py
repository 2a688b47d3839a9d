"""Bringing copies back."""
