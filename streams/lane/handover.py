"""Lanes that the group wants elsewhere: their runs end first, then the group is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from millstream.streams.consumer.assignor import LaneAssignor
from millstream.streams.lane.slot import LaneSlot

log = structlog.get_logger(__name__)

CUT_OFF_REMEDY = (
    "they go on behind their last finished call, where there is a worker with the version of their "
    "template: `millstream runs list` shows them"
)

_COMPANY_S = 0.5
"""How long a lane that has ended waits for others: each time the group deals, all reading stops."""


class Handover:
    """Brings lanes to an end, each within `grace_s`, and lets their numbers go.

    Until then they are this worker's: nobody else opens a lane for them. What runs still when the
    grace is over is cut off, and left to the next owner.
    """

    def __init__(
        self, assignor: LaneAssignor, *, grace_s: float, join_anew: Callable[[], Awaitable[None]]
    ) -> None:
        self._assignor = assignor
        self._grace_s = grace_s
        self._join_anew = join_anew
        self._ending: dict[int, asyncio.Task[None]] = {}
        self._worker: asyncio.Task[None] | None = None

    def start(self, number: int, slot: LaneSlot) -> None:
        """Begin to end a lane, unless that is under way."""
        if number in self._ending:
            return
        self._ending[number] = asyncio.create_task(self._end(slot))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._let_go())

    async def stop(self) -> None:
        """Let go of nothing more; lanes that are being ended are left as they are."""
        tasks = [*self._ending.values(), *([self._worker] if self._worker else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ending.clear()

    async def _end(self, slot: LaneSlot) -> None:
        if not await slot.drain(self._grace_s):
            log.warning(
                "runs were cut off and left to the next owner",
                lane=slot.name,
                remedy=CUT_OFF_REMEDY,
            )
        await slot.close()

    async def _let_go(self) -> None:
        while self._ending:
            _, waiting = await asyncio.wait(
                self._ending.values(), return_when=asyncio.FIRST_COMPLETED
            )
            if waiting:
                await asyncio.wait(waiting, timeout=_COMPANY_S)
            for number, task in tuple(self._ending.items()):
                if task.done():
                    del self._ending[number]
                    self._assignor.release(number)
            await self._join_anew()
