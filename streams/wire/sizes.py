"""How large records are on the wire: key, value and headers, each byte of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["record_bytes"]

_RECORD: Final = 96
"""More than a batch's header (61 bytes) and a record's lengths and deltas (at most 26) take."""

_HEADER: Final = 10
"""More than the two lengths of a header take: at most 5 bytes each."""


def record_bytes(
    key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]
) -> int:
    """Give the most bytes that a record takes as a batch of its own, uncompressed.

    Source: Kafka's record batches, message format 2.
    """
    size = _RECORD + len(key or b"") + len(value or b"")
    for name, given in headers:
        # A name that is no UTF-8 was read with a character for each of its odd bytes.
        letters = len(name) if name.isascii() else len(name.encode(errors="replace"))
        size += _HEADER + letters + len(given or b"")
    return size
