"""What the launcher says to a person: always on standard error, which leaves standard output clean."""

from rich.console import Console

__all__ = ["console"]


def console() -> Console:
    """Console on standard error; plain lines where that is not a terminal."""
    return Console(stderr=True, highlight=False, soft_wrap=True)
