"""The commands by which an app of one's own is begun, run on save, and talked to."""
