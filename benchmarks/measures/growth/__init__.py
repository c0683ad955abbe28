"""What grows with the sessions that a deployment has had: a start, its memory, its rate."""
