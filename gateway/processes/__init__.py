"""The launcher and workers as child processes."""
