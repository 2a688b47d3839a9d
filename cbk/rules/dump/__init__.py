"""Decisions about dumps of databases: what is configured, when one is due, whether one is whole, and which of them stay."""
