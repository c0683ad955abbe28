"""A replay as people follow it: its timeline, and how far it has come."""
