"""What a run tells beside its text: steps for products, events for listeners, its states."""
