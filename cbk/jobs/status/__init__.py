"""How things stand, and telling people of it."""
