"""What of a text may reach a terminal: all that languages need, and nothing that it would obey.

A no-break, narrow or ideographic space, a joiner and a mark of direction are letters here.
`str.isprintable` is not asked: to it they are as unprintable as an escape.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

__all__ = ["clean_json", "escaped", "harmless", "in_line", "json_text", "plain_name"]

_OBEYED: Final = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls: a terminal obeys them
    "\u202a-\u202e\u2066-\u206f"  # order of letters: a line would read as it does not stand
    "\ufeff\ufff9-\ufffb\ufffe\uffff"  # no letters: byte order, annotations, nothing at all
    "\ud800-\udfff"  # halves of letters: no encoding has them
)
_SPACE: Final = r"\x20"
_DELETE: Final = "\x7f"
_LINE_ENDS: Final = "\n\t\u2028\u2029"

_HARMFUL = re.compile(f"[{_OBEYED}]")
_ENDS_LINE = re.compile("[\u2028\u2029]")
_HARMFUL_IN_LINE = re.compile(f"[{_OBEYED}{_LINE_ENDS}]")


def harmless(text: str) -> str:
    """Leave out what a terminal would obey; line breaks and tabs stay."""
    return _HARMFUL.sub("", _ENDS_LINE.sub("\n", text))


def in_line(text: str) -> str:
    """Put a space for each line break, tab, and character that a terminal would obey."""
    return _HARMFUL_IN_LINE.sub(" ", text)


def escaped(text: str) -> str:
    r"""Write line breaks, tabs, and what a terminal would obey as Python does: `\n`, `\x1b`."""
    return _HARMFUL_IN_LINE.sub(lambda found: ascii(found[0])[1:-1], text)


def plain_name(name: str) -> str:
    r"""Give a name so that no two look alike that differ by what is not seen.

    Spaces at its ends, and what a terminal would obey, are written as in Python: `\x20`, `\u202e`.
    """
    inner = name.strip(" ")
    if inner == name:
        return escaped(name)
    before = len(name) - len(name.lstrip(" "))
    after = len(name) - before - len(inner)
    return _SPACE * before + escaped(inner) + _SPACE * after


def json_text(value: Any, *, only_ascii: bool = False) -> str:
    r"""Give JSON in a line, its texts as they are.

    What a terminal would obey is written `\u001b`, which a reader of JSON takes for the character.
    """
    return clean_json(json.dumps(value, ensure_ascii=only_ascii))


def clean_json(line: str) -> str:
    r"""Write what a terminal would obey in a line of JSON as `\u001b` and the like."""
    if line.isascii() and _DELETE not in line:  # JSON escapes all other controls of ASCII
        return line
    return _HARMFUL_IN_LINE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
