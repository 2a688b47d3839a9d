"""Which rows are accepted, which names they get on the disk, and which versions are fetched."""
