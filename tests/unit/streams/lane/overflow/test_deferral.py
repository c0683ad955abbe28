"""Whatever is read, taken, finished, written down and lost: each is taken, in order, till done."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.overflow.deferral import Deferral
from millstream.streams.wire.records import InputRecord
from tests.making import record

pytestmark = pytest.mark.rule(9)

USER = ("default", "ada")


def nothing() -> None:
    """Do nothing."""


class Owners:
    """The owners of a partition, one after the other, and what their crashes leave.

    On the log every third record is somebody else's; some that were left are delivered again.
    """

    def __init__(self) -> None:
        self.log: list[int] = []
        self.acked = 0
        self.written = 0
        self.done: set[int] = set()
        self.crash()
        self.written = 0

    def crash(self) -> None:
        end = self.log[-1] + 1 if self.log else 0
        self.deferral = Deferral(USER, self.written, from_ms=0, rescanned_to=end)
        self.to_find = [offset for offset in self.log if self.written <= offset < end]
        self.taken: dict[int, Entry[InputRecord]] = {}
        self.order: list[int] = []
        for offset in self.log[self.acked :]:
            if offset >= self.written:
                self.deferral.add(offset)
        self.find()

    def arrive(self) -> None:
        offset = len(self.log) + len(self.log) // 2
        self.log.append(offset)
        self.deferral.add(offset)

    def acknowledge(self) -> None:
        self.acked = len(self.log)

    def find(self) -> None:
        for offset in self.to_find[:2]:
            self.deferral.rescanned(offset)
        if self.to_find and not self.to_find[2:]:
            self.deferral.all_found()
        self.to_find = self.to_find[2:]

    def take(self) -> None:
        if (offset := self.deferral.next) is not None:
            self.taken[offset] = self.deferral.take(record(b"", offset=offset), nothing)
            self.order.append(offset)

    def finish_first(self) -> None:
        self._finish(min)

    def finish_last(self) -> None:
        self._finish(max)

    def _finish(self, pick: Callable[[dict[int, Entry[InputRecord]]], int]) -> None:
        if self.taken:
            offset = pick(self.taken)
            self.done.add(offset)
            self.taken.pop(offset).finish()

    def write(self) -> None:
        self.written = self.deferral.from_offset


STEPS = [
    Owners.arrive,
    Owners.arrive,
    Owners.acknowledge,
    Owners.find,
    Owners.take,
    Owners.take,
    Owners.finish_first,
    Owners.finish_last,
    Owners.write,
    Owners.crash,
]


@given(st.lists(st.sampled_from(STEPS), max_size=80))
def test_each_is_taken_in_order_until_it_is_done_whoever_crashes(
    steps: list[Callable[[Owners], None]],
) -> None:
    owners = Owners()
    for step in steps:
        step(owners)
        assert owners.order == sorted(set(owners.order))
        # Nothing that is not done is ever behind what an owner after this one reads.
        assert {offset for offset in owners.log if offset < owners.written} <= owners.done
    while owners.to_find or owners.deferral.next is not None:
        owners.find()
        owners.take()
    while owners.taken:
        owners.finish_last()
    assert owners.done == set(owners.log)
    assert owners.deferral.is_used_up


def test_what_is_not_done_is_not_passed_over_by_those_behind_it() -> None:
    deferral = Deferral(USER, 3, from_ms=0)
    for offset in (3, 5, 9):
        deferral.add(offset)
    first, second = (deferral.take(record(b"", offset=offset), nothing) for offset in (3, 5))
    second.finish()
    assert (deferral.from_offset, len(deferral), deferral.next) == (3, 1, 9)
    first.finish()
    assert (deferral.from_offset, deferral.is_used_up) == (6, False)


def test_those_that_are_deleted_are_counted_and_passed_over() -> None:
    deferral = Deferral(USER, 0, from_ms=0)
    for offset in (0, 1, 2, 7):
        deferral.add(offset)
    assert deferral.give_up_before(2) == 2
    assert (deferral.next, len(deferral)) == (2, 2)
    assert deferral.give_up_before(8) == 2
    assert deferral.is_used_up
