"""Messages and answers as JSON: as they stand on a log, and read back by no other types."""
