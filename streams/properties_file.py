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

_PAIR = re.compile(r"((?:\\.|[^\\=:\s])*)[ \t\f]*[=:]?[ \t\f]*(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}


def read_properties(path: Path, *, named: str) -> dict[str, str]:
    """Read a file; `named` is what names it. Raises `Misconfigured` where it cannot be read."""
    try:
        return parse_properties(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise Misconfigured(f"{named}: {path} cannot be read ({reason})") from None


def parse_properties(text: str) -> dict[str, str]:
    """Give the values by their names; of one that stands twice, the last."""
    found: dict[str, str] = {}
    for line in _logical_lines(text):
        pair = _PAIR.fullmatch(line)
        if pair is not None:
            found[_unescaped(pair[1])] = _unescaped(pair[2])
    return found


def _logical_lines(text: str) -> Iterator[str]:
    held = ""
    for line in text.splitlines():
        begun = line.lstrip()
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
        return chr(int(escape[1:], 16)) if len(escape) > 1 else _LETTERS.get(escape, escape)

    return _ESCAPE.sub(plain, text)
