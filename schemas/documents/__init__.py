"""The documents that are generated from the events, and what may change in them."""
