"""Batches as brokers hand them over: unpacked within a bound, read whole or not at all."""
