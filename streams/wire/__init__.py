"""Records as bytes: codec, keys, partitions, and the headers that a copy keeps."""
