"""Kafka and Redis away, frozen and emptied by turns, and what workers say of it meanwhile."""
