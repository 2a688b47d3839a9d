"""Reading copies again, and restoring some of them for a test."""
