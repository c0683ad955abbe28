"""The ids that a lane is through with: how they are known, sealed, and shared among users."""
