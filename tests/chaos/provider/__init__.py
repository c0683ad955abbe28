"""A provider and tools that fail in every way that real ones do, under load."""
