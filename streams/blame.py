"""Which requests ended lanes by an error that nobody foresaw, so that none ends them for ever."""

from __future__ import annotations

from collections import Counter

from schemas.base import Address

LANES_ENDED_MAX = 3
"""Lanes that one record may end before it is given up."""

_RECORDS_MAX = 1000


class Blame:
    """Counts lanes that a record has ended, by where it first stood. Outlives the lanes of a slot.

    Kept for the newest `_RECORDS_MAX` records.
    """

    def __init__(self) -> None:
        self._ended: Counter[Address] = Counter()

    def hold_against(self, source: Address) -> None:
        """Count one more lane that this record ended."""
        self._ended[source] += 1
        while len(self._ended) > _RECORDS_MAX:
            del self._ended[next(iter(self._ended))]

    def lanes_ended(self, source: Address) -> int:
        """Give how many lanes this record has ended."""
        return self._ended[source]

    def given_up(self, source: Address) -> bool:
        """Tell whether it ended so many that it is tried no more."""
        return self._ended[source] >= LANES_ENDED_MAX
