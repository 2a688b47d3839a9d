"""From where, when, how fast and how often a copy is fetched."""
