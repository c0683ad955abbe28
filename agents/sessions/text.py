"""Text and values as UTF-8 and JSON can hold them: no halves of characters."""

from __future__ import annotations

from typing import Any, Final

from pydantic_core import to_json

__all__ = ["cut_to_bytes", "ends_in_half", "json_pieces", "well_formed", "well_formed_value"]

_DEPTH_MAX: Final = 100
_JSON_PER_CHAR: Final = 6
"""Bytes of the longest character in JSON: a control character, as `\\u0001`."""
_STRETCH_CHARS: Final = 1_024


def ends_in_half(text: str) -> bool:
    """Tell whether the last character is the first half of a pair, whose other half may follow."""
    return "\ud800" <= text[-1:] <= "\udbff"


def well_formed(text: str) -> str:
    """Join halves of a character that stand side by side, and replace any other half by `?`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return joined.encode(errors="replace").decode()
    return text


def well_formed_value(value: Any, depth: int = 0) -> Any:
    """Give a value as JSON has them with `well_formed` text; the value itself if it is so already.

    What is nested more than 100 deep is left as it is.
    """
    if isinstance(value, str):
        return well_formed(value)
    if depth > _DEPTH_MAX:
        return value
    if isinstance(value, dict):
        items = [
            (well_formed_value(key, depth + 1), well_formed_value(one, depth + 1))
            for key, one in value.items()
        ]
        same = all(
            key is was and one is kept
            for (key, one), (was, kept) in zip(items, value.items(), strict=True)
        )
        return value if same else dict(items)
    if isinstance(value, list):
        ones = [well_formed_value(one, depth + 1) for one in value]
        return value if all(one is was for one, was in zip(ones, value, strict=True)) else ones
    return value


def json_pieces(text: str, bytes_max: int) -> list[str]:
    """Cut a text into pieces of at most `bytes_max` bytes each, in UTF-8 as JSON has it.

    A piece ends between two characters, never within one; `text` is well formed, and `bytes_max` is
    6,144 at least. Joined they are the text; an empty text is one piece.
    """
    if len(text) * _JSON_PER_CHAR <= bytes_max:  # as almost all are
        return [text]
    pieces: list[str] = []
    first, size = 0, 0
    for at in range(0, len(text), _STRETCH_CHARS):
        more = len(to_json(text[at : at + _STRETCH_CHARS])) - len('""')
        if size + more > bytes_max:
            pieces.append(text[first:at])
            first, size = at, 0
        size += more
    return [*pieces, text[first:]]


def cut_to_bytes(text: str, bytes_max: int) -> str:
    """Give as much of the beginning as fits, and say how much is left out."""
    encoded = text.encode()
    if len(encoded) <= bytes_max:
        return text
    kept = encoded[:bytes_max].decode(errors="ignore")
    return f"{kept}\n[cut: {len(encoded)} bytes, of which the first {bytes_max} are shown]"
