"""What stands on the topics: replay, dead letters, and putting them back."""
