"""Kafka in memory, as far as a lane can tell: for tests and for trying things out."""
