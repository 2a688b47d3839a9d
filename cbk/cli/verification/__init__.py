"""Commands that read copies again."""
