"""A Kafka node: its jars, its configuration, its process."""
