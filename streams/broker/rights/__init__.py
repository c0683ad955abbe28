"""Rights on Kafka: which are needed, by whom, and which of them this user has."""
