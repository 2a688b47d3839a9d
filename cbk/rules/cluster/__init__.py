"""The worker, Redis and the messages between them."""
