"""Messages to people, and the call to a dead man's switch."""
