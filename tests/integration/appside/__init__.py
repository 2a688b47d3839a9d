"""The application's side, on real servers."""
