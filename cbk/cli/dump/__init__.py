"""Commands about dumps of databases."""
