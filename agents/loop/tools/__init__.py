"""What becomes of a tool that is called: its answer to the model, and the thread it runs in."""
