"""What tests run and read: lanes, views, agents and workers, an upstream, and topics."""
