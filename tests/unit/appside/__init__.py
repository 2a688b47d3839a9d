"""The application's side: what needs no server."""
