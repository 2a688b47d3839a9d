"""Where `celery -A cbk` looks for the app."""

from cbk.cluster.app import app

__all__ = ["app"]
