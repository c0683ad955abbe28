"""How sessions are laid out in Redis, and which kinds of Redis are spoken to."""
