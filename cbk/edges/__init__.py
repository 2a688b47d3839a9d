"""One outside world per file: source database, download, archive (disk), catalog."""
