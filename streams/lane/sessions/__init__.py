"""What a lane decides on sessions: commands, and times to live that are over."""
