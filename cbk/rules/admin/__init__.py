"""What setting up and rebuilding decide."""
