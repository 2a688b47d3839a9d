"""What the application's database, the catalog and the dumped databases have in common."""
