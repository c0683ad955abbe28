"""Accounts of what users spend, and how a refusal to spend more reads."""
