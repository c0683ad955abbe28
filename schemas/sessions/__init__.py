"""Sessions on the wire: what is asked of one, what becomes of it, and why something is refused."""
