"""What is measured of agents by themselves: no Kafka."""
