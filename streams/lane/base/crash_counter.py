"""Which requests ended lanes by an error that nobody foresaw, so that none ends them for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine
from typing import Any

from millstream.schemas.base import Address
from millstream.schemas.dead_letters import Unserviceable
from millstream.schemas.errors import LaneLost

LANES_ENDED_MAX = 3
"""Lanes that one record may end before it is given up."""

_RECORDS_MAX = 1000


class CrashCounter:
    """Counts lanes that a record has ended, by where it first stood. Outlives the lanes of a slot.

    Kept for the newest `_RECORDS_MAX` records.
    """

    def __init__(self) -> None:
        self._ended: Counter[Address] = Counter()

    async def guard(self, source: Address, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, and hold an error that ends the lane against its record, unless foreseen."""
        try:
            await work
        except LaneLost:
            raise
        except Exception:
            self.count(source)
            raise

    def count(self, source: Address) -> None:
        """Count one more lane that this record ended."""
        self._ended[source] += 1
        while len(self._ended) > _RECORDS_MAX:
            del self._ended[next(iter(self._ended))]

    def given_up(self, source: Address) -> Unserviceable | None:
        """Give why a record is tried no more, `None` as long as it is."""
        ended = self._ended.get(source, 0)
        if ended < LANES_ENDED_MAX:
            return None
        return Unserviceable(f"it ended {ended} lanes by an unforeseen error; see the worker's log")
