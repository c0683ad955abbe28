"""Images, files and recordings that a model is told: which it takes, and what they cost."""
