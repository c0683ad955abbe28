"""What securing connections costs."""
