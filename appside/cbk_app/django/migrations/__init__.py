"""Where Django looks for its migrations."""
