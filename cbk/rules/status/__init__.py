"""What is a problem, who is told, and how things went."""
