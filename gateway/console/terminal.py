"""Where a command writes: data on standard output, everything for people on standard error."""

from __future__ import annotations

import sys

from rich.console import Console

__all__ = ["harmless", "print_data", "print_styled", "print_text", "progress_console"]


def progress_console() -> Console:
    """Console on standard error: plain lines, without colours, where that is no terminal.

    It reads no markup, for what it shows may hold square brackets; style whole `Text`s instead.
    """
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_data(line: str) -> None:
    """Write a line of data, at once: the reader may be a program on a pipe."""
    print_text(f"{line}\n")


def print_text(text: str) -> None:
    """Write a piece of an answer, at once, whatever the locale can show.

    A terminal gets no control characters: it would obey those that a model or a user wrote.
    """
    if sys.stdout.isatty():
        text = harmless(text)
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))
    sys.stdout.flush()


def print_styled(text: str, style: str) -> None:
    """Print a line of our own on standard output, in a style where that is a terminal."""
    Console(highlight=False, markup=False, emoji=False, soft_wrap=True).print(text, style=style)


def harmless(text: str) -> str:
    """Leave out all control characters but line breaks and tabs."""
    return "".join(one for one in text if one.isprintable() or one in "\n\t")
