"""How large records are on the wire: key, value and headers, each byte of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = [
    "HEADERS_MAX",
    "HEADERS_MOVED_MAX",
    "HEADERS_READ_MAX",
    "content_bytes",
    "header_bytes",
    "record_bytes",
]

HEADERS_MAX: Final = 1_000
"""Most headers of a record of ours and of others: each takes some 75 bytes of memory."""

HEADERS_MOVED_MAX: Final = 8
"""How many more a record may have where it was moved or put back: its places, its trace."""

HEADERS_READ_MAX: Final = HEADERS_MAX + HEADERS_MOVED_MAX
"""Most headers of a record that is read; one that has more is as a batch that is too large."""

_RECORD: Final = 96
"""More than a batch's header (61 bytes) and a record's lengths and deltas (at most 26) take."""

_HEADER: Final = 10
"""More than the two lengths of a header take: at most 5 bytes each."""


def header_bytes(headers: Iterable[tuple[str, bytes | None]]) -> int:
    """Give the bytes of the names and values of headers, without their lengths."""
    size = 0
    for name, given in headers:  # each record that comes in: no generator, few calls
        size += len(name) if name.isascii() else _name_bytes(name)
        if given:
            size += len(given)
    return size


def content_bytes(
    key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]
) -> int:
    """Give the bytes that a writer gave a record: key, value, and names and values of headers."""
    return len(key or b"") + len(value or b"") + header_bytes(headers)


def record_bytes(
    key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]
) -> int:
    """Give the most bytes that a record takes as a batch of its own, uncompressed.

    Source: Kafka's record batches, message format 2.
    """
    size = _RECORD + len(key or b"") + len(value or b"")
    for name, given in headers:
        size += _HEADER + _name_bytes(name) + len(given or b"")
    return size


def _name_bytes(name: str) -> int:
    # A name that is no UTF-8 was read with a character for each of its odd bytes.
    return len(name) if name.isascii() else len(name.encode(errors="replace"))
