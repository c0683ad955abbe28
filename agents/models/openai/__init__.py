"""OpenAI's chat completions, spoken by a client of our own, at a fraction of the SDK's CPU."""
