"""What the commands share: opening the kit, printing, progress."""
