"""What it costs to read history, beside a raw consumer of the same partitions."""
