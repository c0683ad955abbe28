"""Programs that a measurement starts beside itself."""
