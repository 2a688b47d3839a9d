"""The application's database, as it is and as it fails."""
