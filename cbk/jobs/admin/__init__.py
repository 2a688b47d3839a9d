"""Setting up, checking, upgrading and rebuilding."""
