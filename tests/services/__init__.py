"""Kafka and Redis for tests: named by the environment, in Docker, or launched here."""
