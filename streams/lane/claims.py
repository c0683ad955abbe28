"""What this worker tells its group of its templates, and when the group is asked to deal by it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice

import structlog

from millstream.agents.factory import AgentFactory
from millstream.streams.consumer.assignor import LaneAssignor
from millstream.streams.consumer.capabilities import NEEDS_MAX, Capabilities
from millstream.streams.lane.slot import LaneSlot

__all__ = ["ClaimWatch", "capabilities"]

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.5
WAIT_MAX_S = 60.0
"""The longest between two times that the group is asked to deal anew by one worker."""


def capabilities(factory: AgentFactory) -> Capabilities:
    """Give what a worker with these templates can run."""
    return Capabilities(frozenset(factory.names), factory.offers)


class ClaimWatch:
    """Looks what the lanes' requests wait for, and has the group deal anew where that may help.

    Each time the group deals, all reading stops. So it is asked at most so often: the wait doubles
    each time, up to a minute, until it was not asked for a minute, and is not the same for any two.
    Else who asks for one name after the other that there is not would stop all others.
    """

    def __init__(
        self,
        assignor: LaneAssignor,
        slots: Mapping[int, LaneSlot],
        join_anew: Callable[[], Awaitable[None]],
        *,
        chance: Callable[[], float],
    ) -> None:
        self._assignor = assignor
        self._slots = slots
        self._join_anew = join_anew
        self._chance = chance
        self._wait_s = LOOK_EVERY_S

    async def run(self) -> None:
        """Look, for ever."""
        loop = asyncio.get_running_loop()
        not_before_s = 0.0
        while True:
            await asyncio.sleep(LOOK_EVERY_S * (0.5 + self._chance()))
            self.look()
            if loop.time() > not_before_s + WAIT_MAX_S:
                self._wait_s = LOOK_EVERY_S
            if not self._assignor.has_news or loop.time() < not_before_s:
                continue
            not_before_s = loop.time() + self._wait_s * (0.5 + self._chance())
            self._wait_s = min(2 * self._wait_s, WAIT_MAX_S)
            log.info("the group is asked to deal anew: requests wait for templates")
            await self._join_anew()

    def look(self) -> None:
        """Take in what the requests of each lane wait for."""
        for number, slot in self._slots.items():
            lacking = slot.lacking
            if lacking is not None:  # of one that has just ended, what was heard last stands
                needs = (
                    (one.name, one.version)
                    for one in lacking
                    # Tools that its template has no more: nobody says that he has those.
                    if not (one.tools and self._assignor.meets((one.name, one.version)))
                )
                self._assignor.waits(number, frozenset(islice(needs, NEEDS_MAX)))
