"""Topics on the brokers beside what they are to be: what differs, what is refused, what to do."""
