"""Commands that slow or pause the backup."""
