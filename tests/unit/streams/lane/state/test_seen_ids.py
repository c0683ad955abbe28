"""Ids are remembered within bounds, and what a snapshot holds of them gives the same again."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.streams.lane.state.ids.digests import id_digest, owner_of, users_id
from millstream.streams.lane.state.seen_ids import SealedChunk, SeenIds

BODY_MAX = 2**64 - 1


def seen(*ids: tuple[int, int], ids_max: int = 100) -> SeenIds:
    remembered = SeenIds(ids_max=ids_max, chunk_ids=4)
    for key, at_ms in ids:
        remembered.add(key, at_ms)
    return remembered


def test_a_digest_tells_apart_what_is_joined_differently() -> None:
    assert id_digest("a", "b") == id_digest("a", "b")
    assert len({id_digest("a", "b"), id_digest("ab"), id_digest("b", "a")}) == 3


def test_an_id_is_remembered_with_the_digest_of_its_body() -> None:
    remembered = SeenIds()
    remembered.add(1, 10, BODY_MAX)
    remembered.add(2, 20)
    assert 1 in remembered
    assert (remembered.body(1), remembered.body(2), remembered.body(3)) == (BODY_MAX, None, None)


def test_an_id_that_is_finished_again_is_remembered_from_then_with_the_body_it_had() -> None:
    remembered = SeenIds()
    remembered.add(1, 10, 7)
    remembered.add(2, 20)
    remembered.add(1, 30)
    remembered.forget_before(21)
    assert (1 in remembered, 2 in remembered, remembered.body(1)) == (True, False, 7)


@pytest.mark.parametrize(("before_ms", "kept"), [(10, 2), (11, 1), (20, 1), (21, 0)])
def test_what_is_older_than_asked_is_forgotten(before_ms: int, kept: int) -> None:
    remembered = seen((1, 10), (2, 20))
    remembered.forget_before(before_ms)
    assert len(remembered) == kept


def test_beyond_its_number_the_oldest_id_goes_and_it_is_told_up_to_when() -> None:
    remembered = seen(*((number, 10 * number) for number in range(1, 101)))
    assert remembered.forgotten_ms is None
    remembered.forget_before(0)
    remembered.add(101, 1010)
    remembered.add(102, 1020)
    assert len(remembered) == 100
    assert (2 in remembered, 3 in remembered, remembered.forgotten_ms) == (False, True, 20)


def test_of_what_comes_out_of_turn_the_newest_are_remembered_within_bounds() -> None:
    remembered = seen()
    remembered.unsorted()
    # As topics are read: the one that comes first may hold the newest.
    times = {key: (2000 - 2 * key) if key < 500 else 2 * key + 1 for key in range(1000)}
    for key, at_ms in times.items():
        remembered.add(key, at_ms)
        assert len(remembered) <= 125
    remembered.sort()
    newest = sorted(times, key=times.__getitem__)[-100:]
    assert len(remembered) == 100
    assert all(key in remembered for key in newest)
    assert remembered.forgotten_ms == times[newest[0]] - 1
    remembered.add(1001, 3000)
    assert (len(remembered), newest[0] in remembered) == (100, False)


def test_full_chunks_are_sealed_in_the_order_of_time_and_written_once() -> None:
    remembered = seen((1, 10), (2, 50), (3, 20), (4, 40), (5, 30))
    remembered.sort()
    remembered.forget_before(0)
    (chunk,) = remembered.unwritten()
    assert (chunk.number, remembered.chunks) == (0, ((0, 4),))
    assert len(remembered.open_data) == len(chunk.data) / 4
    remembered.mark_written([0])
    assert remembered.unwritten() == ()
    remembered.forget_before(41)
    assert (remembered.chunks, 2 in remembered, len(remembered)) == ((), True, 1)


def test_a_sealed_id_that_is_finished_again_is_remembered_from_then() -> None:
    remembered = seen((1, 10), (2, 20), (3, 30), (4, 40))
    remembered.forget_before(0)
    remembered.add(1, 50, 7)
    assert (len(remembered), remembered.body(1)) == (4, 7)
    assert remembered.chunks == ((0, 4),)
    remembered.forget_before(41)
    assert (remembered.chunks, 1 in remembered, remembered.body(1)) == ((), True, 7)
    remembered.forget_before(51)
    assert len(remembered) == 0


def test_an_id_that_was_forgotten_and_finished_anew_behind_a_snapshot_is_remembered() -> None:
    live = seen((1, 10), (2, 20), (3, 30), (4, 40))
    live.forget_before(0)
    restored, snapshots = seen(), Snapshots()
    restored = snapshots.taken_and_loaded(live)
    live.forget_before(11)
    for remembered in (live, restored):
        remembered.add(1, 50)
        remembered.forget_before(11)
    assert 1 in restored
    assert live.canonical_data == restored.canonical_data


def test_what_is_remembered_compares_alike_sealed_and_not() -> None:
    sealed, not_sealed = seen(ids_max=20), SeenIds(ids_max=20)
    for remembered in (sealed, not_sealed):
        for key in range(1, 10):
            remembered.add(key, 10 * key)
            remembered.forget_before(15)
        remembered.add(2, 95, 7)
    assert sealed.chunks
    assert not not_sealed.chunks
    assert sealed.canonical_data == not_sealed.canonical_data
    not_sealed.add(3, 96)
    assert sealed.canonical_data != not_sealed.canonical_data


class Snapshots:
    """Holds chunks as a topic would: each is written once and stays as it was."""

    def __init__(self, *, ids_max: int = 20, chunk_ids: int = 4) -> None:
        self.chunks: dict[int, SealedChunk] = {}
        self._sizes = {"ids_max": ids_max, "chunk_ids": chunk_ids}

    def taken_and_loaded(self, remembered: SeenIds) -> SeenIds:
        unwritten = {chunk.number: chunk for chunk in remembered.unwritten()}
        named = {number for number, _ in remembered.chunks}
        # What no chunk is named by any more is forgotten; its number may be given anew.
        kept = {number: at for number, at in self.chunks.items() if number in named}
        assert not kept.keys() & unwritten.keys()
        self.chunks = kept | unwritten
        remembered.mark_written(self.chunks)
        again = SeenIds(**self._sizes)
        again.load(
            ((self.chunks[number], left) for number, left in remembered.chunks),
            remembered.open_data,
            remembered.again_data,
            remembered.since_ms,
            remembered.gaps,
        )
        return again


STEPS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(0, 9), st.sampled_from(("add", "forget", "take"))),
    max_size=120,
)


@given(steps=STEPS)
@example(
    # An id that is finished again out of turn outlives the window's begin, live and loaded alike.
    steps=[
        *((key, 0, "add") for key in (1, 2, 3, 4)),
        (1, 0, "forget"),
        (2, 1, "add"),
        (1, 1, "add"),
        (1, 0, "forget"),
        (1, 0, "take"),
    ]
)
def test_loaded_from_a_snapshot_it_goes_on_as_if_nothing_had_happened(
    steps: list[tuple[int, int, str]],
) -> None:
    live, restored = SeenIds(ids_max=20, chunk_ids=4), SeenIds(ids_max=20, chunk_ids=4)
    snapshots = Snapshots()
    now_ms = 1000
    for key, value, step in steps:
        now_ms += value
        if step == "take":
            restored = snapshots.taken_and_loaded(restored)
        for remembered in (live, restored):
            if step == "add":
                remembered.add(key, now_ms, value or None)
            elif step == "forget":
                remembered.forget_before(now_ms - 10 * value)
        assert [left for _, left in live.chunks] == [left for _, left in restored.chunks]
        assert live.open_data == restored.open_data
        assert live.canonical_data == restored.canonical_data
        assert [live.body(each) for each in range(13)] == [
            restored.body(each) for each in range(13)
        ]


KINDS = ("finished", "rejected", "dead letter")


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(KINDS), st.integers(1, 40)), max_size=40
    ),
    takes=st.sets(st.integers(0, 40)),
)
def test_a_flood_never_takes_another_users_id_and_is_restored_alike(
    steps: list[tuple[int, str, int]], takes: set[int]
) -> None:
    live, restored = (SeenIds(ids_max=64, chunk_ids=8) for _ in range(2))
    window = SeenIds(ids_max=64, chunk_ids=8)
    window.unsorted()
    snapshots = Snapshots(ids_max=64, chunk_ids=8)
    added: list[tuple[int, int, bool]] = []
    for number, (user, kind, count) in enumerate(steps):
        if number in takes:
            restored = snapshots.taken_and_loaded(restored)
        for _ in range(count):
            at_ms = 1000 + len(added)
            owner = ("", "") if kind == "dead letter" else ("default", f"u{user}")
            added.append((users_id(*owner, str(at_ms)), at_ms, kind == "finished"))
            for remembered in (live, restored):
                remembered.add(added[-1][0], at_ms, ran=added[-1][2])
        live.forget_before(0)
        restored.forget_before(0)
        assert live.canonical_data == restored.canonical_data
        assert len(live) <= 64
    for key, at_ms, ran in reversed(added):
        window.add(key, at_ms, ran=ran)
    window.sort()
    assert window.canonical_data == live.canonical_data
    held = Counter(owner_of(key) for key, _, _ in added if key in live)
    lost = {owner_of(key) for key, _, _ in added if key not in live}
    # All who lost an id have as many as anybody, but for what cannot be divided.
    assert all(held[owner] >= max(held.values()) - 1 for owner in lost)


def test_room_is_made_step_by_step_and_what_is_held_stays_bounded() -> None:
    remembered = SeenIds(ids_max=4000, chunk_ids=64)
    honest = [users_id("default", f"user-{number % 20}", str(number)) for number in range(1000)]
    for at_ms, key in enumerate(honest):
        remembered.add(key, at_ms)
    most = 0
    for number in range(30_000):
        remembered.add(users_id("default", "flood", str(number)), 1000 + number, ran=False)
        remembered.forget_before(0)
        most = max(most, len(remembered))
    assert all(key in remembered for key in honest)
    assert most < 4500
    assert sum(left for _, left in remembered.chunks) > 64 * len(remembered.chunks) / 2 - 64
    assert remembered.forgotten_ms is None
