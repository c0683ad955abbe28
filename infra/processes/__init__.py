"""Child processes that cannot outlive the launcher."""
