"""The small model that runs on this machine, for showing the platform."""
