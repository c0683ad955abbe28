"""The tests: `unit` mirrors the packages, the rest run on real Kafka and Redis."""
