"""What the rows and the inventories said."""
