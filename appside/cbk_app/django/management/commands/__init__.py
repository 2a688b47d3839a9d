"""Where Django looks for its commands."""
