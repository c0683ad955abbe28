"""Apps: what a team brings, loaded and checked, and run in memory by its tests."""
