"""The window acknowledges strictly in offset order, in whatever order records are done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.streams.lane.base.window import Entry, Window

pytestmark = pytest.mark.rule(10)

OFFSETS_MAX = 24

History = tuple[list[int], list[int], list[tuple[int, int]]]
"""Offsets as they arrive, the order in which they are done, and redeliveries: (step, offset)."""


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Offsets with gaps, as transaction markers leave them; any order; anything delivered again."""
    gaps = draw(st.lists(st.integers(1, 3), min_size=1, max_size=OFFSETS_MAX))
    offsets = [sum(gaps[: index + 1]) for index in range(len(gaps))]
    again = st.tuples(st.integers(0, len(offsets) - 1), st.sampled_from(offsets))
    return offsets, draw(st.permutations(offsets)), draw(st.lists(again, max_size=OFFSETS_MAX))


def held(window: Window[str], offset: int, ack: Callable[[], None]) -> Entry[str]:
    entry = window.take(offset, f"record {offset}", ack)
    assert entry is not None
    return entry


def nothing() -> None:
    """Acknowledge where nobody looks."""


@given(histories())
def test_acks_come_in_offset_order_and_never_before_all_earlier_records_are_done(
    history: History,
) -> None:
    offsets, order, _ = history
    window: Window[str] = Window(OFFSETS_MAX)
    acked: list[int] = []
    entries = {one: held(window, one, partial(acked.append, one)) for one in offsets}
    done: set[int] = set()
    for offset in order:
        window.done(entries[offset])
        done.add(offset)
        assert acked == list(takewhile(done.__contains__, offsets))
    assert acked == offsets
    assert len(window) == 0


@given(histories())
def test_a_record_delivered_again_is_never_worked_on_again_and_never_acked_early(
    history: History,
) -> None:
    offsets, order, again = history
    window: Window[str] = Window(OFFSETS_MAX)
    first: list[int] = []
    second: list[int] = []
    entries = {one: held(window, one, partial(first.append, one)) for one in offsets}
    for step, offset in enumerate(order):
        for _, repeated in (one for one in again if one[0] == step):
            assert window.take(repeated, "again", partial(second.append, repeated)) is None
            assert set(second) <= set(first)
        window.done(entries[offset])
        assert set(second) <= set(first)
    assert sorted(second) == sorted(repeated for _, repeated in again)


def test_records_that_are_not_done_are_given_in_offset_order() -> None:
    window: Window[str] = Window(8)
    entries = [held(window, offset, nothing) for offset in (3, 5, 6, 9)]
    window.done(entries[1])
    assert [entry.offset for entry in window.undone()] == [3, 6, 9]
    assert len(window) == 4


async def test_a_window_that_was_full_has_room_once_it_is_half_empty() -> None:
    window: Window[str] = Window(4)
    await window.room()  # it was not full yet
    entries = [held(window, offset, nothing) for offset in range(5)]  # one more than it should
    assert window.full
    room = asyncio.create_task(window.room())
    for entry in entries[1:]:
        window.done(entry)
        await asyncio.wait([room], timeout=0)
    assert not room.done()  # nothing is gone before the first one
    window.done(entries[0])
    await room


async def test_a_window_that_was_full_has_no_room_with_one_free_place() -> None:
    window: Window[str] = Window(4)
    entries = [held(window, offset, nothing) for offset in range(4)]
    room = asyncio.create_task(window.room())
    window.done(entries[0])
    assert not window.full
    await asyncio.wait([room], timeout=0)
    assert not room.done()
    window.done(entries[1])
    await room


def test_what_may_have_been_read_before_is_marked_and_nothing_else() -> None:
    window = Window[str](5, again_before=3)
    assert [held(window, offset, nothing).again for offset in (0, 2, 3, 9)] == [
        True,
        True,
        False,
        False,
    ]


def test_what_is_held_of_a_log_that_is_gone_is_acknowledged_no_more() -> None:
    window, acked = Window[str](5), list[int]()
    first = held(window, 7, lambda: acked.append(7))
    window.forget_acks()
    first.finish()
    assert acked == []
    assert len(window) == 0
