"""What comes into a lane: requests and commands."""
