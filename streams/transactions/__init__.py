"""Group commit: many runs' records in one transaction."""
