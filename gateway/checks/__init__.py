"""What `doctor` looks at: each check gives findings, and what to do about those that are bad."""
