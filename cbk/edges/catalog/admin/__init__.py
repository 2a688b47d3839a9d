"""Setting a catalog right."""
