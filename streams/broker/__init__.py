"""Kafka as clients and raw requests see it: readers, batches, topics."""
