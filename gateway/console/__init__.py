"""Words in and out of a terminal: what is parsed, what is shown."""
