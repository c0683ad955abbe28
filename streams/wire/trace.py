"""W3C trace context on records: read, mended as the standard says, and written on.

Source: W3C Trace Context, levels 1 and 2: versions of `traceparent`, and limits of `tracestate`. A
malformed `traceparent` starts a new trace, and its `tracestate` goes no further with it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["NAMES", "TRACEPARENT", "TRACESTATE", "Trace", "given_trace", "new_trace"]

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
NAMES = frozenset({TRACEPARENT, TRACESTATE})

_STATE_BYTES_MAX = 512
_STATE_MEMBERS_MAX = 32

_IDS = rb"(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}"
_KNOWN = re.compile(rb"00-" + _IDS + rb"-[0-9a-f]{2}")
_LATER = re.compile(rb"(?!00|ff)[0-9a-f]{2}-(" + _IDS + rb")-([0-9a-f]{2})(?:-[ -~]*)?")
_MEMBER = re.compile(rb"([a-z0-9][a-z0-9_*/@-]{0,255})=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_NO_ZERO_ID = 1 << 64 | 1


class Trace(NamedTuple):
    """Which trace a record belongs to: the values of `traceparent` and, if any, `tracestate`."""

    parent: bytes
    state: bytes | None = None

    def headers(self) -> list[tuple[str, bytes]]:
        """Give the record headers that say so."""
        if self.state is None:
            return [(TRACEPARENT, self.parent)]
        return [(TRACEPARENT, self.parent), (TRACESTATE, self.state)]


def new_trace() -> Trace:
    """Start a trace: version 00, random trace and parent ids, sampled."""
    # Ids of traces must be unlike each other, not secret; the system's own take a call each.
    ids = f"{random.getrandbits(192) | _NO_ZERO_ID:048x}"
    return Trace(f"00-{ids[:32]}-{ids[32:]}-01".encode())


def given_trace(headers: Iterable[tuple[str, bytes | None]]) -> Trace | None:
    """Give the trace that a record's headers name, `None` if they name none or a malformed one.

    The last `traceparent` counts, and all `tracestate` as one list. A parent of a later version is
    written in version 00, as the standard asks of who knows no newer one.
    """
    given: bytes | None = None
    states: list[bytes] = []
    for name, value in headers:
        if name == TRACEPARENT:
            given = value
        elif name == TRACESTATE and value:
            states.append(value)
    parent = None if given is None else _parent(given)
    if parent is None:
        return None
    return Trace(parent, _state(b",".join(states)) if states else None)


def _parent(given: bytes) -> bytes | None:
    if _KNOWN.fullmatch(given):
        return given
    later = _LATER.fullmatch(given)
    if later is None:
        return None
    ids, flags = later.groups()
    sampled = b"01" if int(flags, 16) & 1 else b"00"
    return b"00-" + ids + b"-" + sampled


def _state(given: bytes) -> bytes | None:
    """Give a valid list, without the members at its end that are beyond the limit; else `None`."""
    members = [member for one in given.split(b",") if (member := one.strip(b" \t"))]
    if len(members) > _STATE_MEMBERS_MAX:
        return None
    kept: list[bytes] = []
    keys: set[bytes] = set()
    size = -1
    for member in members:
        match = _MEMBER.fullmatch(member)
        if match is None or match[1] in keys:
            return None
        keys.add(match[1])
        size += len(member) + 1
        if size <= _STATE_BYTES_MAX:
            kept.append(member)
    return b",".join(kept) or None
