"""Stand-ins of ports, one for each: they pass the cases of the real ones."""
