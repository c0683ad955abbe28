"""What the launcher says to a person, always on standard error: standard output is for programs."""

from rich.console import Console

__all__ = ["console"]


def console() -> Console:
    """Console on standard error; plain lines where that is not a terminal.

    It reads no markup: the paths and logs it shows may hold square brackets.
    """
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
