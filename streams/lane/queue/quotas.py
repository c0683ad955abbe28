"""How much of a user's waits and runs, and how much of it is too much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from millstream.schemas.base import UserKey
from millstream.streams.lane.queue.run_table import RunTable
from millstream.streams.lane.queue.waiting_line import WaitingLine
from millstream.streams.settings import Settings


class UserQuotas:
    """Measures the line of one lane, and its runs in memory, by the settings' bounds."""

    def __init__(self, settings: Settings, line: WaitingLine, in_memory: RunTable) -> None:
        self._settings = settings
        self._line = line
        self._in_memory = in_memory

    @property
    def half_full(self) -> bool:
        """Whether so many wait that nobody may have more than one: the rest is for others."""
        return 2 * len(self._line) >= self._settings.parked_max

    @property
    def may_be_crowded(self) -> bool:
        """Whether so many wait that one user may have too many."""
        return self.half_full or len(self._line) >= self._settings.waiting_per_user_max

    def over_limit(self, user: UserKey) -> bool:
        """Tell whether so many of a user's wait that no more should be taken in.

        What is paused, or waits for its next attempt, does not count as long as the line is not
        half full: else a paused session would hold up the user's others.
        """
        if self.half_full and self._line.of_user(user):
            return True
        return self._line.ready_of(user) >= self._settings.waiting_per_user_max

    def active(self, user: UserKey) -> int:
        """Count a user's requests that run, or wait for their turn alone."""
        return self._in_memory.of_user(user) + self._line.ready_of(user)

    def may_refill(self, user: UserKey) -> bool:
        """Tell whether so few of a user's wait that it is time to take in more."""
        few = max(1, self._settings.waiting_per_user_max // 2)
        return self._line.ready_of(user) < few and not self.over_limit(user)

    def has_room(self, user: UserKey) -> bool:
        """Tell whether a user may have one more in memory: half of it is for all alike."""
        count, most = len(self._in_memory), self._settings.runs_in_flight_max
        if count < most // 2:
            return True
        return count < most and self._in_memory.of_user(user) < self._settings.runs_per_user_max


log = structlog.get_logger(__name__)

_ROOM_AGAIN = 0.9
"""Of what there is room for, so much may be in use when more is taken again."""


class Backpressure:
    """Room for `most`, of which `in_use` tells how much is in use. It stays closed a while.

    `name` is that of the partition whose requests it is for.
    """

    def __init__(self, name: str, most: int, in_use: Callable[[], int]) -> None:
        self._name = name
        self._most = most
        self._in_use = in_use
        self._open = asyncio.Event()
        self._open.set()

    @property
    def closed(self) -> bool:
        """Whether no more was to be taken when it was last asked."""
        return not self._open.is_set()

    def is_open(self) -> bool:
        """Tell whether more may be taken."""
        if not self.closed and self._in_use() >= self._most:
            self._open.clear()
            log.warning(
                "a partition is read no further until fewer requests of it wait",
                partition=self._name,
                waiting=self._in_use(),
            )
        return not self.closed

    def update(self) -> None:
        """Look again: less of it may be in use now."""
        if self.closed and self._in_use() <= _ROOM_AGAIN * self._most:
            self._open.set()

    async def opened(self) -> None:
        """Return once more may be taken."""
        await self._open.wait()
