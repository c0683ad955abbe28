"""The edges: the command line."""
