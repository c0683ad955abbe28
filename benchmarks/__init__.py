"""What Millstream costs, measured on real Kafka with real workers."""
