"""Records as bytes: codec, keys, partitions."""
