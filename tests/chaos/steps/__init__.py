"""Agents of many steps: what their model and tools saw, beside what stands on the journal."""
