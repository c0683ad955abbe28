"""What becomes of runs: why they end without their answer."""
