"""Where a command writes: data on standard output, everything for people on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Self

from rich.cells import cell_len
from rich.console import Console

from millstream.gateway.console.cleaning import harmless, in_line, json_text

__all__ = [
    "Lines",
    "Unwritable",
    "print_data",
    "print_json",
    "print_json_line",
    "print_styled",
    "print_table",
    "print_text",
    "progress_console",
    "showable_json",
]

_GAP: Final = "  "
_LINES_CHARACTERS: Final = 65_536


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
    """Write a value as a line of JSON, at once, whatever the locale can show."""
    print_json_line(json_text(value))


def print_json_line(line: str) -> None:
    """Write a line of JSON, at once, its texts as they are if the locale can show them."""
    print_data(showable_json(line))


def showable_json(line: str) -> str:
    """Give a line of JSON in characters that standard output can show."""
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json_text(json.loads(line), only_ascii=True)
    return line


class Lines:
    """Lines of data, written many at once: by 64 KiB, and whenever `write` is called.

    Call it before a wait. Use it as a context: at its end, also an early one, all are written.
    `before` is called before each write.
    """

    def __init__(self, *, before: Callable[[], None] = lambda: None) -> None:
        self.count = 0
        self._before = before
        self._held: list[str] = []
        self._characters = 0

    def add(self, line: str) -> None:
        """Add a line, and write if there are many. Raises as `print_text`."""
        self.count += 1
        self._held.append(line)
        self._characters += len(line)
        if self._characters >= _LINES_CHARACTERS:
            self.write()

    def write(self) -> None:
        """Write what is held. Raises as `print_text`."""
        if not self._held:
            return
        text = "\n".join((*self._held, ""))
        self._held.clear()
        self._characters = 0
        self._before()
        print_text(text)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what is left, unless nobody can read it any more."""
        if kind is None or not issubclass(kind, OSError | Unwritable):
            self.write()


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
