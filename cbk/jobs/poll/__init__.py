"""Reading the application's tables for news, with each poll or on request."""
