"""Sessions as Redis, and its twin in memory, show them."""
