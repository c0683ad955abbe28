"""Where there are too many ids, they go of whoever has most of them, and in no order of coming."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.streams.lane.state.ids.digests import owner_of, users_id
from millstream.streams.lane.state.ids.shares import kept, level_of
from millstream.streams.lane.state.ids.values import has_run, newest


def ids_of(user: str, count: int, *, at_ms: int = 1000, ran: bool = True) -> dict[int, int]:
    return {
        users_id("default", user, f"{ran}-{number}"): newest(0, at_ms + number, None, ran=ran)
        for number in range(count)
    }


@pytest.mark.parametrize(
    ("counts", "level"),
    [([5, 5], 5), ([100, 5], 95), ([100, 100], 50), ([1000, 60, 10], 45), ([], 3), ([70, 20], 70)],
)
def test_a_level_leaves_room_to_whoever_has_less(counts: list[int], level: int) -> None:
    assert level_of(counts, 100) == level


def test_whoever_has_few_is_cut_to_none_of_them() -> None:
    assert level_of([1] * 1000, 100) == 3
    assert level_of([20] * 100_000, 500_000) == 16


def test_a_flood_takes_the_place_of_its_own_ids_only() -> None:
    honest, flood = ids_of("honest", 40), ids_of("flood", 500, at_ms=9000)
    left = kept(honest | flood, 100)
    assert honest.keys() <= left.keys()
    assert left.keys() - honest.keys() == set(list(flood)[-60:])


def test_of_a_user_what_did_not_run_goes_first() -> None:
    ran, rejected = ids_of("u", 30), ids_of("u", 200, at_ms=9000, ran=False)
    left = kept(ran | rejected, 100)
    assert ran.keys() <= left.keys()
    assert len(left) == 100
    assert sum(map(has_run, left.values())) == 30


@given(
    ids=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 200), st.integers(0, 10**6), st.booleans()),
        max_size=300,
    ),
    parted=st.integers(0, 300),
)
def test_what_is_left_depends_on_no_order_and_nobody_has_more_than_who_lost_an_id(
    ids: list[tuple[int, int, int, bool]], parted: int
) -> None:
    known: dict[int, int] = {}
    for user, number, at_ms, ran in ids:
        key = users_id("default", str(user), str(number))
        known[key] = newest(known.get(key, 0), at_ms, None, ran=ran)
    left = kept(known, 64)
    first = dict(list(known.items())[:parted])
    assert kept(kept(first, 64) | known, 64) == left
    later = dict(list(known.items())[parted:])
    assert kept(kept(first, 64) | kept(later, 64), 64) == left
    assert len(left) <= 64
    held = Counter(map(owner_of, left))
    lost = {owner_of(key) for key in known.keys() - left.keys()}
    alike = len(set(known.values())) < len(known)
    assert alike or all(held[user] >= max(held.values()) - 1 for user in lost)


@given(
    ids=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10**6), st.booleans()), max_size=120),
    parted=st.integers(0, 120),
)
def test_where_users_are_too_many_the_lowest_go_in_whichever_order_they_came(
    ids: list[tuple[int, int, bool]], parted: int
) -> None:
    known = {
        users_id("default", str(user), str(number)): newest(0, at_ms, None, ran=ran)
        for number, (user, at_ms, ran) in enumerate(ids)
    }
    left = kept(known, 20)
    first = dict(list(known.items())[:parted])
    later = dict(list(known.items())[parted:])
    assert len(left) <= 20
    assert kept(kept(first, 20) | later, 20) == left
    assert kept(kept(first, 20) | kept(later, 20), 20) == left
