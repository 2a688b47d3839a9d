"""What is to go, what is to stay, and what went."""
