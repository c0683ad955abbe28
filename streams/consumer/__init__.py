"""Faust's consumer group: how partitions are dealt, and whether they are still ours."""
