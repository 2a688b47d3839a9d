"""The backup disk."""
