"""Work on versions, and what it needs to know of hashes and links."""
