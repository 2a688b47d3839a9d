"""Commands that have the rows read."""
