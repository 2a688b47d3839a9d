"""Dumps of databases: taken, kept, read again, drilled and restored."""
