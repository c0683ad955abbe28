"""What waits in a lane: in line, parked, paused."""
