"""A slot keeps the records while its lanes come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from millstream.schemas.errors import (
    LaneFenced,
    LaneLapsed,
    LaneLost,
    LaneOutdated,
    ServiceUnavailable,
)
from millstream.streams.consumer.membership import Lease, Membership, since_boot_s
from millstream.streams.lane.base.crash_counter import CrashCounter
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.lane import Lane
from millstream.streams.lane.slot import LaneSlot
from millstream.streams.wire.records import InputRecord
from tests.making import record
from tests.support import eventually

pytestmark = [pytest.mark.rule(2), pytest.mark.rule(10)]


class PlainLane:
    """A lane that does what its slot relies on, and commits when told to."""

    def __init__(self, failure: Exception | None) -> None:
        self._failure = failure
        self.asked_for_room = 0
        self.has_room = True
        self.may_have_room = asyncio.Event()
        self.served: list[Entry[InputRecord]] = []
        self.closed = False
        self.may_close = asyncio.Event()
        self.may_close.set()
        self.lost: asyncio.Future[LaneLost] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        if self._failure is not None:
            raise self._failure

    def serve(self, entry: Entry[InputRecord], *, is_behind: bool = False) -> None:
        del is_behind
        self.served.append(entry)

    async def drain(self, timeout_s: float) -> bool:
        return timeout_s > 0

    def lose(self, lost: LaneLost) -> None:
        self.lost.set_result(lost)

    def release_records(self) -> None:
        self.asked_for_room += 1

    def wants(self, topic: str) -> bool:
        return self.has_room or topic == "control"

    async def room(self, topic: str) -> None:
        while not self.wants(topic):
            self.may_have_room.clear()
            await self.may_have_room.wait()

    def have_room(self) -> None:
        self.has_room = True
        self.may_have_room.set()

    async def close(self) -> None:
        await self.may_close.wait()
        self.closed = True

    def commit(self, offset: int) -> None:
        next(one for one in self.served if one.offset == offset).finish()

    @property
    def offsets(self) -> list[int]:
        return [one.offset for one in self.served]


class Opened:
    """The lanes that a slot has opened; each of `failures` stops one from opening."""

    def __init__(self, *failures: Exception) -> None:
        self.lanes: list[PlainLane] = []
        self._failures = list(failures)

    def make(self, _crash_counter: CrashCounter) -> Lane:
        failure = self._failures.pop(0) if self._failures else None
        lane = PlainLane(failure)
        self.lanes.append(lane)
        return cast("Lane", lane)


def in_the_group() -> Membership:
    membership = Membership(60)
    membership.heard(since_boot_s())
    return membership


@asynccontextmanager
async def a_slot(
    opened: Opened,
    *,
    fenced_wait_s: float = 60,
    membership: Membership | None = None,
) -> AsyncIterator[LaneSlot]:
    membership = membership or in_the_group()
    slot = LaneSlot(
        opened.make,
        lease=Lease(membership),
        topics=["requests", "control"],
        capacity=2,
        fenced_wait_s=fenced_wait_s,
        name="chain-0",
    )
    try:
        yield slot
    finally:
        await slot.close()


async def test_records_that_come_before_the_lane_is_open_are_served_in_order() -> None:
    opened, acked = Opened(), list[int]()
    async with a_slot(opened) as slot:
        for offset in (0, 1):
            slot.take(record(b"", offset=offset), lambda offset=offset: acked.append(offset))
        await eventually(lambda: slot.serving)
        (lane,) = opened.lanes
        assert lane.offsets == [0, 1]
        lane.commit(1)
        assert acked == []
        lane.commit(0)
        assert acked == [0, 1]
    assert lane.closed


async def test_a_new_lane_gets_what_the_lost_one_had_not_done() -> None:
    opened = Opened()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        for offset in (0, 1):
            slot.take(record(b"", offset=offset), lambda: None)
        opened.lanes[0].commit(0)
        opened.lanes[0].lost.set_result(LaneLost("outcome unknown"))
        await eventually(lambda: len(opened.lanes) == 2 and slot.serving)
        assert opened.lanes[0].closed
        assert opened.lanes[1].offsets == [1]
        assert slot.lanes_lost == 1


@pytest.mark.parametrize("failure", [LaneLost("x"), ServiceUnavailable("x")])
async def test_a_lane_that_did_not_open_is_tried_again(failure: Exception) -> None:
    opened = Opened(failure)
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        assert [lane.closed for lane in opened.lanes] == [True, False]


async def test_a_fenced_lane_is_replaced_when_the_group_says_whose_the_partition_is() -> None:
    opened = Opened()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        opened.lanes[0].lost.set_result(LaneFenced("x"))
        await eventually(lambda: slot.lanes_lost == 1)
        assert len(opened.lanes) == 1
        slot.confirm()
        await eventually(lambda: slot.serving)
        assert len(opened.lanes) == 2


async def test_a_lane_that_cannot_read_what_it_folds_says_so_until_one_can() -> None:
    opened = Opened(LaneOutdated("upgrade the workers"))
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.outdated == "upgrade the workers")
        assert not slot.serving
        assert len(opened.lanes) == 1
        slot.confirm()
        await eventually(lambda: slot.serving)
        assert slot.outdated is None


async def test_what_the_group_said_before_the_fencing_does_not_give_the_partition_back() -> None:
    opened = Opened()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        slot.confirm()  # a rebalance that left the partition here
        opened.lanes[0].lost.set_result(LaneFenced("x"))
        with pytest.raises(AssertionError):
            # Longer than a lane that was not fenced would wait.
            await eventually(lambda: len(opened.lanes) == 2, timeout_s=1.5)


async def test_what_its_lane_has_no_room_for_is_not_read_but_commands_are() -> None:
    opened = Opened()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        (lane,) = opened.lanes
        assert not slot.full("requests")
        lane.has_room = False
        assert slot.full("requests")
        assert not slot.full("control")
        await slot.room("control")
        room = asyncio.create_task(slot.room("requests"))
        await asyncio.wait([room], timeout=0.01)
        assert not room.done()
        lane.have_room()
        await room
        assert not slot.full("requests")


async def test_a_window_that_empties_is_not_filled_again_while_the_lane_has_no_room() -> None:
    opened = Opened()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        (lane,) = opened.lanes
        for offset in (0, 1):
            slot.take(record(b"", offset=offset), lambda: None)
        assert slot.full("requests")
        room = asyncio.create_task(slot.room("requests"))
        lane.has_room = False
        lane.commit(0)
        lane.commit(1)
        await asyncio.wait([room], timeout=0.01)
        assert not room.done()
        lane.have_room()
        await room


async def test_a_new_lane_is_asked_whether_it_has_the_room_that_the_lost_one_had_not() -> None:
    opened = Opened()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        opened.lanes[0].has_room = False
        assert slot.full("requests")
        room = asyncio.create_task(slot.room("requests"))
        await asyncio.wait([room], timeout=0.01)
        opened.lanes[0].lost.set_result(LaneLost("outcome unknown"))
        await room
        assert slot.serving


async def test_a_full_slot_says_so_and_tells_when_it_has_room() -> None:
    opened = Opened()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        for offset in (0, 1):
            slot.take(record(b"", offset=offset), lambda: None)
        assert slot.full("requests")
        assert opened.lanes[0].asked_for_room == 1
        room = asyncio.create_task(slot.room("requests"))
        await asyncio.wait([room], timeout=0)
        assert not room.done()
        opened.lanes[0].commit(0)
        assert not slot.full("requests")
        await room


async def test_a_draining_slot_holds_records_and_serves_none() -> None:
    opened = Opened()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        assert await slot.drain(1)
        slot.take(record(b"", offset=0), lambda: None)
        assert len(slot) == 1
        assert opened.lanes[0].offsets == []


async def test_an_error_that_nobody_foresaw_does_not_end_the_slot_in_silence() -> None:
    opened = Opened(ValueError("unforeseen"))
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving, timeout_s=3)


async def test_no_lane_is_opened_by_who_may_be_out_of_the_group() -> None:
    opened, membership = Opened(), in_the_group()
    async with a_slot(opened, membership=membership) as slot:
        await eventually(lambda: slot.serving)
        slot.take(record(b"", offset=0), lambda: None)
        membership.evicted()
        slot.lose(LaneLapsed("x"))
        with pytest.raises(AssertionError):
            await eventually(lambda: len(opened.lanes) == 2, timeout_s=1.5)
        membership.heard(since_boot_s())  # taken in again, and told of no partition yet
        with pytest.raises(AssertionError):
            await eventually(lambda: len(opened.lanes) == 2, timeout_s=0.2)
        slot.confirm()
        await eventually(lambda: slot.serving)
        assert opened.lanes[1].offsets == [0]


async def test_a_slot_is_closed_for_good() -> None:
    opened = Opened()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        assert not slot.closed
        await slot.close()
        assert slot.closed
        assert opened.lanes[0].closed


async def test_a_lane_may_end_its_closing_whoever_else_closes_the_slot_or_stops_waiting() -> None:
    opened = Opened()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        opened.lanes[0].may_close.clear()
        impatient = asyncio.create_task(slot.close())
        await asyncio.wait({impatient}, timeout=0.05)
        impatient.cancel()
        second = asyncio.create_task(slot.close())
        await asyncio.wait({second}, timeout=0.05)
        assert not second.done()
        opened.lanes[0].may_close.set()
        await second
        assert opened.lanes[0].closed


async def test_records_of_a_log_that_was_set_back_are_served_and_acknowledged_anew() -> None:
    opened, acked = Opened(), list[tuple[str, int]]()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        (lane,) = opened.lanes
        for offset in (7, 8):
            slot.take(record(b"", offset=offset), lambda at=offset: acked.append(("old", at)))
        lane.commit(7)
        slot.read_again("requests", stood_at=9)
        slot.take(record(b"", offset=0), lambda: acked.append(("new", 0)))
        lane.commit(8)  # of the log that is gone
        lane.commit(0)
    assert acked == [("old", 7), ("new", 0)]
    assert [(one.offset, one.again) for one in lane.served] == [(7, False), (8, False), (0, True)]


async def test_what_is_held_of_a_log_of_which_nothing_is_committed_is_not_served_twice() -> None:
    opened, acked = Opened(), list[int]()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        (lane,) = opened.lanes
        slot.take(record(b"", offset=0), lambda: acked.append(0))
        # At a rebalance its first run goes on, and Kafka says again that nothing is committed.
        slot.may_come_again("requests")
        assert slot.may_commit("requests")
        for offset in (0, 1):
            slot.take(record(b"", offset=offset), lambda at=offset: acked.append(at))
        lane.commit(0)
        lane.commit(1)
    assert acked == [0, 0, 1]
    assert [(one.offset, one.again) for one in lane.served] == [(0, False), (1, False)]


async def test_a_slot_that_begins_with_nothing_committed_marks_what_comes() -> None:
    opened = Opened()
    async with a_slot(opened) as slot:
        await eventually(lambda: slot.serving)
        slot.may_come_again("requests")
        assert not slot.may_commit("requests")
        slot.take(record(b"", offset=0), lambda: None)
        (entry,) = opened.lanes[0].served
        assert entry.again
        entry.window.comes_no_more()
        assert slot.may_commit("requests")
