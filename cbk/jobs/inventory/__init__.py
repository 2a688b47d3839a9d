"""What the buckets hold, compared with what the catalog knows."""
