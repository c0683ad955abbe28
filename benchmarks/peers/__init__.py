"""Other ways to answer requests on Kafka from Python, each in an environment of its own."""
