"""Fetching what is due: sending it to the workers, and what each of them does."""
