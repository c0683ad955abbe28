"""What a run's calls write down, and how a run that goes on elsewhere finds them again."""
