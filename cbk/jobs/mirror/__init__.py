"""Mirrors: copies in further places, and back from them."""
