"""The window acknowledges strictly in offset order, in whatever order records are done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st

from streams.window import Entry, Window

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


async def test_a_full_window_lets_nobody_in_until_its_first_record_is_done() -> None:
    window: Window[str] = Window(2)
    first, second = held(window, 0, nothing), held(window, 1, nothing)
    waiting = asyncio.create_task(window.room())
    window.done(second)
    await asyncio.wait({waiting}, timeout=0)
    assert not waiting.done()
    window.done(first)
    await asyncio.wait_for(waiting, 1)


async def test_everybody_who_waits_learns_that_the_window_is_empty_and_has_room() -> None:
    window: Window[str] = Window(1)
    entry = held(window, 0, nothing)
    waiting = asyncio.gather(window.room(), window.empty(), window.empty())
    window.done(entry)
    await asyncio.wait_for(waiting, 1)


async def test_a_window_given_up_lets_everybody_in_who_waits_for_room() -> None:
    window: Window[str] = Window(1)
    held(window, 0, nothing)
    waiting = asyncio.create_task(window.room())
    await asyncio.wait({waiting}, timeout=0)
    window.release()
    await asyncio.wait_for(waiting, 1)
