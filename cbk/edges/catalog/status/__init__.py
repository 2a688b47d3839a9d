"""What the catalog tells a person."""
