"""What is set for single topics: the values, how long records are kept, and what cannot be."""
