"""Transactions that nobody ends: found, understood, and ended as they were decided."""
