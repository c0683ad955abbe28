"""Agents on an event loop of their own: whatever they run, the lanes' loop goes on."""
