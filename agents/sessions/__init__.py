"""A session's state: opened, sealed, bounded, and looked at."""
