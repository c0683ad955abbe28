"""What the C library's allocator keeps of memory that is free: as little as can be.

Measured on a worker that served 143,000 requests in 100,000 sessions: it held 275 MiB, 63 of them
free. A table that has grown leaves its last one behind, a megabyte on the heap; what is small and
stays takes a place in it, and none of it can go back. In blocks of their own they do: 237 MiB.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any, Final

__all__ = ["give_back", "map_large_blocks"]

LARGE_BYTES: Final = 256 * 1024

_M_MMAP_THRESHOLD: Final = -3


def map_large_blocks() -> None:
    """Have what is larger than 256 KiB taken from the system, and given back when it is freed.

    For the whole process. By itself the allocator takes ever larger blocks from its heap, once one
    was freed. Does nothing where it is not glibc's.
    """
    if hasattr(_library(), "mallopt"):
        _library().mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def give_back() -> None:
    """Have the allocator give back what is free: some 2 ms. Does nothing where it is not glibc's.

    Behind a restore of 143,000 ids: 17 of 155 MiB. A collection of garbage gives nothing back.
    """
    if hasattr(_library(), "malloc_trim"):
        _library().malloc_trim(0)


@lru_cache(maxsize=1)
def _library() -> Any:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # a system without a C library to ask
        return None
