"""Reading partitions: several as one, in the order of the brokers' clocks."""
