"""What sessions cost: operations on them, and their number."""
