"""What a starting worker and `doctor` ask of brokers: is each reached, and is its clock right."""
