"""What is remembered of an id, as one number: whether it ran, when it was finished, what was asked.

In this order from the highest bit on: so of a user's ids the lowest number is what may go first. A
rejected request that comes again is rejected again, or begins; one that ran would run twice.
"""

from __future__ import annotations

from typing import Final

__all__ = ["body_of", "has_run", "newest", "time_of"]

_BODY_BITS: Final = 64
_TIME_BITS: Final = 63
_BODY_MASK: Final = (1 << _BODY_BITS) - 1
_TIME_MASK: Final = (1 << _TIME_BITS) - 1
_HAS_RUN: Final = 1 << _BODY_BITS + _TIME_BITS


def newest(before: int, at_ms: int, body: int | None, *, ran: bool) -> int:
    """Give what is remembered of an id that is finished at `at_ms`, and was known before, or 0."""
    moment = max(at_ms, time_of(before)) << _BODY_BITS
    return (before & _HAS_RUN or (ran and _HAS_RUN)) | moment | (body or before & _BODY_MASK)


def time_of(value: int) -> int:
    """Give when it was finished, in ms since the epoch."""
    return value >> _BODY_BITS & _TIME_MASK


def body_of(value: int) -> int | None:
    """Give the digest of what was asked, `None` where that is not known."""
    return (value & _BODY_MASK) or None


def has_run(value: int) -> bool:
    """Tell whether it may have had an effect, if it is forgotten and comes again."""
    return value >= _HAS_RUN
