"""A worker's own process: its context, its health, and what it tells the service manager."""
