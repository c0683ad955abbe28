"""What runs in a lane: from admission to an outcome."""
