"""What runs that wait for weeks go on from, kept on the log for as long as they wait."""
