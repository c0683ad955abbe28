"""The event bus: subscribe, publish, and read an answer, over Kafka or memory."""
