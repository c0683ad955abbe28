"""What aiokafka has fetched goes as soon as nobody reads on in it, not with the next collection.

aiokafka's `PartitionRecords` holds a generator of its own method, and that holds it: whoever reads
a part of what was fetched, and then from another place, leaves up to a megabyte to the garbage
collector. That counts objects, not bytes, and a worker has it called seldom.
"""

from __future__ import annotations

from typing import Any
from weakref import proxy

from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import PartitionRecords

__all__ = ["free_fetches"]


def free_fetches() -> None:
    """Have every aiokafka consumer of this process let go; may be called again."""
    fetcher.PartitionRecords = _FreedRecords


class _FreedRecords(PartitionRecords):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        getattr(self, "_records_iterator")  # noqa: B009  a rename in aiokafka must fail here
        self._records_iterator = PartitionRecords._unpack_records(proxy(self))  # noqa: SLF001
