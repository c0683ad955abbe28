"""When sessions are to be looked at: the earliest time of each, however often it is put off."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

__all__ = ["DueTimes"]

_STALE_MAX: Final = 1_000


class DueTimes:
    """The times at which sessions are to be looked at, in ms, by their place; at most one each.

    A session that is put off keeps its earlier time: whoever looks at it then adds it anew. So a
    session that is touched all day takes no more memory than one that is not.
    """

    def __init__(self) -> None:
        self._times: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        """Give how many sessions are to be looked at."""
        return len(self._times)

    @property
    def first(self) -> int | None:
        """The earliest time, `None` if there is none."""
        while self._heap and self._is_stale(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def add(self, due: int, place: int) -> bool:
        """Have a session looked at by then; tell whether it is earlier than it would have been."""
        known = self._times.get(place)
        if known is not None and known <= due:
            return False
        self._times[place] = due
        heapq.heappush(self._heap, (due, place))
        if len(self._heap) > 2 * len(self._times) + _STALE_MAX:
            self._rebuild()
        return True

    def add_all(self, times: Iterable[tuple[int, int]]) -> None:
        """Have many sessions looked at, of which none was added before."""
        self._times.update((place, due) for due, place in times)
        self._rebuild()

    def pop(self, now_ms: int) -> int | None:
        """Take out a session whose time has come, `None` if there is none."""
        first = self.first
        if first is None or first > now_ms:
            return None
        _, place = heapq.heappop(self._heap)
        del self._times[place]
        return place

    def _is_stale(self, due: int, place: int) -> bool:
        return self._times.get(place) != due

    def _rebuild(self) -> None:
        self._heap = [(due, place) for place, due in self._times.items()]
        heapq.heapify(self._heap)
