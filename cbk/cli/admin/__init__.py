"""Commands that set up, check and recover."""
