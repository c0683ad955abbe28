"""What the start of a worker and `doctor` ask of brokers: whether each is reached, and its clock."""
