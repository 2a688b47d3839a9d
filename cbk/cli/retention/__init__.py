"""Commands about what goes and what is held."""
