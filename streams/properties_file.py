r"""Files of properties, as Java writes them: `name=value`, `name: value` or `name value`.

Lines that begin with `#` or `!` say nothing; a backslash at the end of a line joins the next one;
`\n`, `\t`, `\:`, `\u0041` and the like are escapes (`java.util.Properties`). Text is UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from millstream.schemas.errors import Misconfigured

__all__ = ["parse_properties", "read_properties"]

_BLANK = " \t\f"
_LINE_END = re.compile(r"\r\n|\r|\n")
_PAIR = re.compile(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}


def read_properties(path: Path, *, named: str) -> dict[str, str]:
    """Read a file; `named` is what names it. Raises `Misconfigured` where it cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        reason = "it is not text in UTF-8"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "an error"
        if len(str(path).splitlines()) > 1:
            # What the file is to hold, passwords and all.
            raise Misconfigured(f"{named}: it must name a file, by its path") from None
    else:
        try:
            return parse_properties(text)
        except ValueError as error:
            reason = str(error)
    raise Misconfigured(f"{named}: {path} cannot be read ({reason})")


def parse_properties(text: str) -> dict[str, str]:
    r"""Give the values by their names; of one that stands twice, the last.

    Raises `ValueError` for a `\u` without its four digits, or with half of a character.
    """
    found: dict[str, str] = {}
    for line in _logical_lines(text):
        pair = _PAIR.fullmatch(line)
        if pair is not None:
            found[_unescaped(pair[1])] = _unescaped(pair[2])
    return found


def _logical_lines(text: str) -> Iterator[str]:
    held = ""
    # No other character ends a line: U+2028 and the like may be part of a password.
    for line in _LINE_END.split(text):
        begun = line.lstrip(_BLANK)
        if not held and (not begun or begun[0] in "#!"):
            continue
        whole = held + begun
        if (len(whole) - len(whole.rstrip("\\"))) % 2:
            held = whole[:-1]
        else:
            held = ""
            yield whole
    if held:
        yield held


def _unescaped(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        escape = found[1]
        if escape == "u":
            message = "a \\u in it lacks its four digits"
            raise ValueError(message)
        return chr(int(escape[1:], 16)) if len(escape) > 1 else _LETTERS.get(escape, escape)

    # Java writes what is beyond U+FFFF as two escapes.
    try:
        whole = _ESCAPE.sub(plain, text).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        message = "a \\u in it is half of a character"
        raise ValueError(message) from None
    return whole
