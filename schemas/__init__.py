"""What is on the wire: events, topic catalogue, errors and ports. Imports pydantic only."""
