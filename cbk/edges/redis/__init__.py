"""What the kit asks of Redis by itself: its settings, and the rate that all workers share."""
