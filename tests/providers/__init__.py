"""Models as providers really serve them: cases in data files, played by a server on loopback."""
