"""What a lane leaves on the log until there is room for it."""
