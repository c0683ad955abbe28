"""Which of a worker's lanes is restored next: one after the other, so that the first serves soon.

All of them share one loop. Restored side by side, each would be ready when the last one is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

__all__ = ["RestoreTurn", "RestoreTurns"]


class RestoreTurns:
    """The restores that are under way in one worker.

    The first is one for which something waits, and of those the one that came first. Which these
    are is asked each time: what waits may come while it is restored.
    """

    def __init__(self) -> None:
        self._under_way: list[RestoreTurn] = []
        self._given = 0

    def turn(self, has_waiting: Callable[[], bool]) -> RestoreTurn:
        """Give a lane's turn; `has_waiting` tells whether records wait for the lane."""
        self._given += 1
        return RestoreTurn(self, self._given, has_waiting)

    def enter(self, turn: RestoreTurn) -> None:
        """Take note that a lane reads."""
        self._under_way.append(turn)

    def leave(self, turn: RestoreTurn) -> None:
        """Take note that a lane has read all, or is given up."""
        self._under_way.remove(turn)
        self.call()

    def first(self) -> RestoreTurn | None:
        """Give whose turn it is, `None` where all that are under way wait for a broker."""
        ready = (one for one in self._under_way if not one.is_stalled)
        return min(ready, key=lambda one: one.rank, default=None)

    def call(self) -> None:
        """Wake the one whose turn it is."""
        first = self.first()
        if first is not None:
            first.wake()


class RestoreTurn:
    """One lane's turn: it may read while it is the first. Entered for as long as it reads."""

    def __init__(self, turns: RestoreTurns, number: int, has_waiting: Callable[[], bool]) -> None:
        self._turns = turns
        self._number = number
        self._has_waiting = has_waiting
        self._called = asyncio.Event()
        self.is_stalled = False

    @property
    def rank(self) -> tuple[bool, int]:
        """The place in the order; the lowest is the first."""
        return (not self._has_waiting(), self._number)

    def __enter__(self) -> None:
        """Begin to read."""
        self.is_stalled = False
        self._turns.enter(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Be done with reading."""
        self._turns.leave(self)

    async def wait(self) -> None:
        """Return once it may read on."""
        self.is_stalled = False
        while self._turns.first() is not self:
            self._called.clear()
            self._turns.call()
            await self._called.wait()

    def stalled(self) -> None:
        """Let others read meanwhile: a transaction is open, or a broker does not answer."""
        self.is_stalled = True
        self._turns.call()

    def wake(self) -> None:
        """Have it look whether it is the first."""
        self._called.set()
