"""Where sessions stand: what is known of one that is not in memory, and what a snapshot keeps."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from millstream.schemas.events import SessionUpdated
from millstream.schemas.sessions.commands import SessionTtl
from millstream.schemas.sessions.states import SessionBarrier, SessionState
from millstream.schemas.topics import SESSION_STATES, SESSIONS
from millstream.streams.lane.state.folds import SnapshotBody, packed
from millstream.streams.lane.state.sessions.places import SessionPlaces, place_of
from millstream.streams.lane.state.sessions.recent import Recent
from millstream.streams.topic_settings.retention import Retention
from tests import making

DAY_MS = 86_400_000
NOW_MS = 1_790_000_000_000
S = ("default", "ada", "s")


def state(session_id: str = "s", **fields: Any) -> SessionState:
    given = {"revision": 1, "at_ms": NOW_MS, "created_at_ms": NOW_MS, "since_ms": NOW_MS}
    return SessionState(
        user_id="ada", session_id=session_id, **{"active_at_ms": NOW_MS, **given, **fields}
    )


def head(session_id: str = "s", **fields: Any) -> SessionUpdated:
    given = {"at_ms": NOW_MS, "created_at_ms": NOW_MS, "user_id": "ada"}
    return making.head(1, session_id=session_id, **{**given, **fields})


def again(places: SessionPlaces) -> SessionPlaces:
    """Give what a snapshot makes of them."""
    loaded = SessionPlaces()
    body = orjson.loads(packed(places.as_fold().state()))
    loaded.as_fold().load(SnapshotBody(body))
    return loaded


@given(
    ttl=st.builds(
        SessionTtl,
        idle_s=st.none() | st.integers(1, 10_000),
        total_s=st.none() | st.integers(1, 10_000),
    ),
    active_ms=st.integers(0, 10_000_000),
    turned_ms=st.none() | st.integers(1, 10_000_000),
)
def test_what_is_due_is_what_the_state_says(
    ttl: SessionTtl, active_ms: int, turned_ms: int | None
) -> None:
    places = SessionPlaces()
    one = state(ttl=ttl, active_at_ms=NOW_MS + active_ms)
    places.state_at(one, 3)
    if turned_ms is not None:
        places.head_at(head(at_ms=NOW_MS + turned_ms), 7)
    due = one.due_ms(0 if turned_ms is None else NOW_MS + turned_ms)
    for known in (places, again(places)):
        assert known.due_ms(place_of(S)) == due
        assert [found for found, _ in known.with_ttl()] == ([] if due is None else [due])


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from(["open", "closed", "expired", "deleted", "head"]),
            st.integers(0, 2**60),
        )
    )
)
def test_a_snapshot_keeps_all_of_it(changes: list[tuple[str, Any, int]]) -> None:
    places = SessionPlaces()
    for session_id, change, offset in changes:
        if change == "head":
            places.head_at(head(session_id), offset)
        else:
            barrier = (
                None
                if change == "open"
                else SessionBarrier(before_offset=1, until_ms=offset % 2**47)
            )
            places.state_at(state(session_id, state=change, barrier=barrier), offset)
    loaded = again(places)
    newest: dict[str, str] = {}
    for session_id, change, _ in changes:
        newest[session_id] = newest.get(session_id, "open") if change == "head" else change
    for known in (places, loaded):
        assert +known.counts == Counter(newest.values())
    assert loaded.as_fold().canonical() == places.as_fold().canonical()
    assert loaded.barriers_until_ms == places.barriers_until_ms
    for session_id, change, offset in changes[-1:]:
        place = place_of(("default", "ada", session_id))
        if change == "head":
            assert (loaded.head_offset(place), loaded.turned_ms(place)) == (offset, NOW_MS)
        else:
            assert (loaded.state_offset(place), loaded.lifecycle(place)) == (offset, change)
            assert loaded.changed_ms(place) == NOW_MS


def test_a_deleted_session_has_no_head() -> None:
    places = SessionPlaces()
    places.head_at(head(), 1)
    places.state_at(state(state="deleted"), 2)
    assert (places.head_offset(place_of(S)), places.turned_ms(place_of(S))) == (None, 0)


def test_what_retention_removed_is_forgotten() -> None:
    places = SessionPlaces()
    places.head_at(head(), 1)
    places.head_at(head("t"), 9)
    places.state_at(state(ttl=SessionTtl(idle_s=1)), 1)
    places.forget_before({SESSIONS.name: 5, SESSION_STATES.name: 2})
    assert places.head_offset(place_of(S)) is None
    assert places.state_offset(place_of(S)) is None
    assert list(places.with_ttl()) == []
    assert places.head_offset(place_of(("default", "ada", "t"))) == 9


def test_old_ones_are_forgotten_as_new_ones_come() -> None:
    places = SessionPlaces()
    for number in range(10_000):
        places.head_at(head(f"old-{number}"), number)
    later_ms = NOW_MS + 31 * DAY_MS
    for number in range(10_001):
        places.head_at(head(f"new-{number}", at_ms=later_ms), 20_000 + number)
    assert places.head_offset(place_of(("default", "ada", "old-1"))) is None
    assert places.head_offset(place_of(("default", "ada", "new-1"))) == 20_001


def test_those_that_are_kept_longer_are_known_for_longer() -> None:
    places = SessionPlaces(Retention({"checkpoints": {"retention.ms": 90 * DAY_MS}}))
    for number in range(10_000):
        places.head_at(head(f"old-{number}"), number)
    later_ms = NOW_MS + 31 * DAY_MS
    for number in range(10_001):
        places.head_at(head(f"new-{number}", at_ms=later_ms), 20_000 + number)
    assert places.head_offset(place_of(("default", "ada", "old-1"))) == 1


def test_an_old_state_is_forgotten_with_its_time_to_live() -> None:
    places = SessionPlaces()
    places.state_at(state("old", ttl=SessionTtl(idle_s=60)), 1)
    for number in range(10_000):
        places.state_at(state(f"new-{number}", at_ms=NOW_MS + 31 * DAY_MS), 2 + number)
    old = place_of(("default", "ada", "old"))
    assert (places.state_offset(old), places.due_ms(old)) == (None, None)
    assert +places.counts == {"open": 10_000}


def test_what_is_not_committed_stays_in_memory_however_much_it_is() -> None:
    recent: Recent[object] = Recent(2)
    values = {("default", "ada", f"s{number}"): object() for number in range(9)}
    for key, value in values.items():
        recent.put(key, value, ahead=True)
    assert len(recent) == 9
    newer = object()
    recent.put(("default", "ada", "s0"), newer, ahead=True)
    for key, value in values.items():
        recent.committed(key, value)
    # Of the first one the newer value is still on its way.
    assert recent.get(("default", "ada", "s0")) is newer
    assert len(recent) == 3
    recent.get(("default", "ada", "s7"))
    recent.put(("default", "ada", "other"), object())
    assert ("default", "ada", "s7") in recent
    assert ("default", "ada", "s8") not in recent


def test_what_is_committed_takes_no_place_of_what_is_ahead_of_it() -> None:
    recent: Recent[object] = Recent(2)
    first, second = object(), object()
    recent.put(S, first, ahead=True)
    recent.put(S, second, ahead=True)
    recent.put(S, first)
    recent.committed(S, first)
    assert recent.get(S) is second
    recent.put(S, second)
    recent.committed(S, second)
    third = object()
    recent.put(S, third)
    assert recent.get(S) is third


def test_what_comes_beside_what_is_held_stays() -> None:
    recent: Recent[object] = Recent(1)
    keys = [("default", "ada", f"s{number}") for number in range(5)]
    with recent.held(keys):
        for key in keys:
            recent.put(key, object())
        recent.put(S, object())
        assert S in recent
        assert all(key in recent for key in keys)
        recent.put(("default", "ada", "other"), object())
        assert S not in recent
    assert len(recent) == 1
