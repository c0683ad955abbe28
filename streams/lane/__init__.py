"""A lane: the one owner of a partition, from a record to its committed outcome."""
