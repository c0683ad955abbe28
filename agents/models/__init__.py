"""Language models: from a name to a model, and what goes wrong with a provider."""
