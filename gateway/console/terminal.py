"""Where a command writes: data on standard output, everything for people on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console

from millstream.gateway.console.cleaning import harmless, in_line, json_text

__all__ = [
    "Unwritable",
    "print_data",
    "print_json",
    "print_styled",
    "print_table",
    "print_text",
    "progress_console",
]

_GAP: Final = "  "


def progress_console() -> Console:
    """Console on standard error: plain lines, without colours, where that is no terminal.

    It reads no markup, for what it shows may hold square brackets; style whole `Text`s instead.
    """
    return _Progress(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


class Unwritable(Exception):
    """Standard output takes no more, as on a full disk; says why."""


class _Progress(Console):
    """Goes on in silence where nobody can read it any more: the data may still be wanted."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print; what a full disk does not take is left out, and the next may find room."""
        with suppress(OSError):
            super().print(*objects, **how)

    def on_broken_pipe(self) -> None:
        """Write nothing from here on, neither this nor any other console, nor Python at exit."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)


def print_data(line: str) -> None:
    """Write a line of data, at once: the reader may be a program on a pipe."""
    print_text(f"{line}\n")


def print_json(value: Any) -> None:
    """Write a line of JSON, at once, its texts as they are, whatever the locale can show."""
    line = json_text(value)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        line = json_text(value, only_ascii=True)
    print_data(line)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a line for the headings and for each row.

    No name is cut or folded: it is there to be copied. A terminal that is narrower wraps the line.
    """
    lines = [list(headings), *([in_line(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        padded = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)
        )
        print_data(_GAP.join(padded).rstrip())


def print_text(text: str) -> None:
    """Write a piece of an answer, at once, whatever the locale can show.

    A terminal gets no control characters: it would obey those that a model or a user wrote.
    Raises `BrokenPipeError` where nobody reads it any more, `Unwritable` where it takes no more.
    """
    if sys.stdout.isatty():
        text = harmless(text)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        message = f"standard output cannot be written: {error.strerror}"
        raise Unwritable(message) from error


def print_styled(text: str, style: str) -> None:
    """Print a line of our own on standard output, in a style where that is a terminal."""
    Console(highlight=False, markup=False, emoji=False, soft_wrap=True).print(text, style=style)
