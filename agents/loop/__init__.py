"""One attempt of an agent: its loop, what it calls, and the tokens that it writes."""
