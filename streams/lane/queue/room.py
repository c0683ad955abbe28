"""Whether a lane has room for more requests: what waits in it takes memory, on the log none."""

from __future__ import annotations

from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

_ROOM_AGAIN = 0.9
"""Of what there is room for, so much may be in use when more is taken again."""


class Room:
    """Room for `most`; `in_use` tells how much of it is in use. Once full, it stays so for a while.

    `name` is that of the partition whose requests it is for.
    """

    def __init__(self, name: str, most: int, in_use: Callable[[], int]) -> None:
        self._name = name
        self._most = most
        self._in_use = in_use
        self._is_full = False
        self._on_room: Callable[[], None] = lambda: None

    def watch(self, on_room: Callable[[], None]) -> None:
        """Have `on_room` called when there is room again, where `is_left` said there is none."""
        self._on_room = on_room

    def is_left(self) -> bool:
        """Tell whether more may be taken."""
        if not self._is_full and self._in_use() >= self._most:
            self._is_full = True
            log.warning(
                "a partition is read no further until fewer requests of it wait",
                partition=self._name,
                waiting=self._in_use(),
            )
        return not self._is_full

    def look(self) -> None:
        """Hear that less of it may be in use now."""
        if self._is_full and self._in_use() <= _ROOM_AGAIN * self._most:
            self._is_full = False
            self._on_room()
