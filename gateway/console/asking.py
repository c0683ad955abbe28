"""What is asked on a command line, as an argument, on standard input or in a file; and by whom."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

import typer

from millstream.gateway.console.cleaning import harmless
from millstream.gateway.console.terminal import progress_console

__all__ = ["account_name", "confirmed", "metadata_of", "text_asked"]

_STANDARD_INPUT: Final = "-"
_BYTES_MAX: Final = 1_000_000
"""More than any record of a request may have."""


def account_name() -> str:
    """Give the account of a command, `unknown` where it has no name, as in a container."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def text_asked(text: str | None, file: Path | None) -> str:
    """Give what is asked, "" where neither text nor file is given; `-` is standard input.

    The last line break of what is read belongs to the file, and is left out. Raises
    `typer.BadParameter` for what cannot be read, is no text, or is empty.
    """
    if text is not None and file is not None:
        message = "give the text, or --input-file, not both"
        raise typer.BadParameter(message)
    given = text if file is None else str(file)
    if given == _STANDARD_INPUT:
        return _read_standard_input()
    if file is None:
        return text or ""
    try:
        with file.open("rb") as opened:
            return _decoded(opened, f"{str(file)!r}")
    except OSError as error:
        message = f"{str(file)!r} cannot be read: {error.strerror}"
        raise typer.BadParameter(message, param_hint="--input-file") from error


def confirmed(question: str) -> bool:
    """Ask a person at the terminal; only `y` and `yes` are a yes, the end of the input is a no.

    Ctrl-C is none of the two: it raises `KeyboardInterrupt`, as anywhere.
    """
    progress_console().print(f"{harmless(question)} [y/N]:", end=" ")
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        progress_console().print()  # whoever types Ctrl-D goes to no new line
    return answer.strip().lower() in {"y", "yes"}


def metadata_of(pairs: Sequence[str]) -> dict[str, str]:
    """Read `NAME=VALUE` pairs. Raises `typer.BadParameter` for what is none, or a name twice."""
    metadata: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            message = f"{pair!r} is not NAME=VALUE"
            raise typer.BadParameter(message, param_hint="--metadata")
        if name in metadata:
            message = f"{name!r} is given twice"
            raise typer.BadParameter(message, param_hint="--metadata")
        metadata[name] = value
    return metadata


def _read_standard_input() -> str:
    if sys.stdin.isatty():
        progress_console().print("type what to ask; Ctrl-D on a line of its own ends it")
    return _decoded(sys.stdin.buffer, "standard input")


def _decoded(source: BinaryIO, name: str) -> str:
    data = source.read(_BYTES_MAX + 1)
    if len(data) > _BYTES_MAX:
        message = f"{name} is longer than {_BYTES_MAX:,} bytes, more than a request may have"
        raise typer.BadParameter(message)
    try:
        # Some editors begin a file with a byte order mark.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{name} is not text in UTF-8 (byte {error.start})"
        raise typer.BadParameter(message) from error
    if not text.strip():
        message = f"there is nothing to ask: {name} is empty"
        raise typer.BadParameter(message)
    return text.removesuffix("\n").removesuffix("\r")
