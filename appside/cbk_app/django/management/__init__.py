"""Where Django looks for its management."""
