"""What the group wants elsewhere is let go once its runs have ended, in as few rounds as may be."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from millstream.streams.consumer.assignor import LaneAssignor
from millstream.streams.lane.handover import Handover
from millstream.streams.lane.slot import LaneSlot
from tests.support import eventually

pytestmark = pytest.mark.rule(10)

NUMBERS = frozenset({0, 1, 2})


class Ending:
    """Stands for a slot whose runs end when told to."""

    name = "chain"

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.closed = False

    async def drain(self, grace_s: float) -> bool:
        try:
            async with asyncio.timeout(grace_s):
                await self.ended.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        self.closed = True


class Deal:
    """An assignor that was dealt three numbers, and what it says each time it joins anew."""

    def __init__(self, grace_s: float) -> None:
        self.assignor = LaneAssignor()
        self.claims: list[frozenset[int]] = []
        self.handover = Handover(self.assignor, grace_s=grace_s, join_anew=self._join)
        self.slots = {number: Ending() for number in NUMBERS}

    def begin(self, *numbers: int) -> None:
        for number in numbers:
            self.handover.start(number, cast("LaneSlot", self.slots[number]))

    async def _join(self) -> None:
        self.claims.append(NUMBERS - self.assignor.given_back)


async def test_a_lane_is_let_go_when_its_runs_have_ended_and_not_before() -> None:
    deal = Deal(grace_s=60)
    deal.begin(2)
    deal.begin(2)  # told again while it is at it
    await asyncio.wait({asyncio.create_task(deal.slots[2].ended.wait())}, timeout=0.05)
    assert deal.claims == []
    deal.slots[2].ended.set()
    await eventually(lambda: deal.claims == [{0, 1}])
    assert deal.slots[2].closed
    assert not deal.slots[1].closed


async def test_a_lane_whose_runs_do_not_end_in_time_is_let_go_all_the_same() -> None:
    deal = Deal(grace_s=0.05)
    deal.begin(1)
    await eventually(lambda: deal.claims == [{0, 2}])
    assert deal.slots[1].closed


async def test_lanes_that_end_together_are_let_go_together_and_a_late_one_by_itself() -> None:
    deal = Deal(grace_s=60)
    deal.begin(0, 1, 2)
    deal.slots[0].ended.set()
    deal.slots[1].ended.set()
    await eventually(lambda: deal.claims == [{2}])
    deal.slots[2].ended.set()
    await eventually(lambda: deal.claims == [{2}, set()])


async def test_a_handover_that_is_stopped_lets_nothing_more_go() -> None:
    deal = Deal(grace_s=60)
    deal.begin(0)
    await deal.handover.stop()
    assert (deal.claims, deal.assignor.given_back) == ([], set())
