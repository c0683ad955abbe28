"""Where each session's head and state stand on the log: what a lane knows of all its sessions.

A head or a state takes a kilobyte or two in memory, and a session may be idle for weeks. So only
those in use are there (`recent.py`); of all others a lane knows the offset of the record, and the
little that is asked of them without waiting: whether they are open, and until when.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import gt
from struct import Struct
from typing import Any, Final, get_args

from millstream.schemas.events import SessionUpdated
from millstream.schemas.sessions.states import LifecycleState, SessionState
from millstream.schemas.topics import SESSION_STATES, SESSIONS, TopicSpec
from millstream.streams.lane.state.folds import Begin, Fold, SnapshotBody, Source
from millstream.streams.lane.state.ids.digests import id_digest
from millstream.streams.topic_settings.retention import Retention
from millstream.streams.wire.keys import SessionKey, session_key

__all__ = ["SessionPlaces", "place_of"]

_STATES: Final[tuple[LifecycleState, ...]] = get_args(LifecycleState)
_STATE_BITS: Final = 3
_TIME_BITS: Final = 48
_KEY_BYTES: Final = 16
_HEAD_BYTES: Final = 14
_STATE_BYTES: Final = 14
_TTL_BYTES: Final = 8
_LOOKED_AT_MIN: Final = 10_000


def place_of(session: SessionKey) -> int:
    """Give the digest that a session is known by here."""
    return id_digest(*session)


class SessionPlaces:
    """The offsets of the newest records of a lane's sessions: a fold of what is committed.

    Memory: some 150 bytes for each session that the log keeps, 200 more for one that is open with
    a time to live. Two sessions of one digest, of 16 bytes, would hide each other's conversation.
    """

    def __init__(self, retention: Retention | None = None) -> None:
        self._retention = retention or Retention()
        # A number each, of offset and time, or of offset and state: tuples take twice the memory.
        self._heads: dict[int, int] = {}
        self._states: dict[int, int] = {}
        self._ttls: dict[int, tuple[int, int, int]] = {}
        self._heads_looked_at = self._states_looked_at = _LOOKED_AT_MIN
        self.counts: Counter[LifecycleState | None] = Counter()
        """How many sessions are in each state; one that nobody created or changed is open."""
        self.barriers_until_ms = 0
        """No barrier of any session concerns a request that the broker took later than that."""

    def as_fold(self) -> Fold:
        """Give what the list is told of it."""
        return Fold(
            name="session_places",
            topics=(
                Source(SESSIONS, Begin.LOG, follows_another=lambda head: head.turn > 1),
                # A session that was deleted has no head, whatever else stands on the log still.
                Source(SESSION_STATES, Begin.LOG, follows_another=lambda one: one.revision > 1),
            ),
            fold={},
            place={SessionUpdated: self.head_at, SessionState: self.state_at},
            entries=("session_places",),
            state=self._state,
            load=self._load,
            canonical=self._canonical,
        )

    def head_at(self, head: SessionUpdated, offset: int) -> None:
        """Take in where a session's head stands."""
        place = place_of(session_key(head))
        before = self._counted_as(place)
        self._heads[place] = offset << _TIME_BITS | head.at_ms
        self._count(place, before)
        if len(self._heads) >= self._heads_looked_at:
            self._forget_old(SESSIONS, head.at_ms)
            self._heads_looked_at = max(_LOOKED_AT_MIN, 2 * len(self._heads))

    def state_at(self, state: SessionState, offset: int) -> None:
        """Take in where a session's state stands."""
        place = place_of(session_key(state))
        before = self._counted_as(place)
        code = _STATES.index(state.state)
        self._states[place] = (offset << _TIME_BITS | state.at_ms) << _STATE_BITS | code
        if state.barrier is not None:
            self.barriers_until_ms = max(self.barriers_until_ms, state.barrier.until_ms)
        if state.state == "deleted":
            self._heads.pop(place, None)
        if state.state == "open" and (state.ttl.idle_s or state.ttl.total_s):
            self._ttls[place] = (
                (state.ttl.idle_s or 0) * 1000,
                state.created_at_ms + state.ttl.total_s * 1000 if state.ttl.total_s else 0,
                state.active_at_ms,
            )
        else:
            self._ttls.pop(place, None)
        self._count(place, before)
        if len(self._states) >= self._states_looked_at:
            self._forget_old(SESSION_STATES, state.at_ms)
            self._states_looked_at = max(_LOOKED_AT_MIN, 2 * len(self._states))

    def head_offset(self, place: int) -> int | None:
        """Give where a session's head stands, `None` if it has none."""
        found = self._heads.get(place)
        return None if found is None else found >> _TIME_BITS

    def turned_ms(self, place: int) -> int:
        """Give when a session's newest turn was, in ms since the epoch, 0 if there was none."""
        return self._heads.get(place, 0) & ((1 << _TIME_BITS) - 1)

    def state_offset(self, place: int) -> int | None:
        """Give where a session's state stands, `None` if it has none."""
        found = self._states.get(place)
        return None if found is None else found >> _STATE_BITS + _TIME_BITS

    def lifecycle(self, place: int) -> LifecycleState | None:
        """Give what a session is by its state's record, `None` if it has none."""
        found = self._states.get(place)
        return None if found is None else _STATES[found & ((1 << _STATE_BITS) - 1)]

    def changed_ms(self, place: int) -> int:
        """Give the time of a session's newest state, in ms since the epoch, 0 if it has none."""
        return self._states.get(place, 0) >> _STATE_BITS & ((1 << _TIME_BITS) - 1)

    def due_ms(self, place: int) -> int | None:
        """Give when a session expires, as `SessionState.due_ms` does, `None` if it does not."""
        ttl = self._ttls.get(place)
        if ttl is None:
            return None
        idle_ms, total_until_ms, active_ms = ttl
        idle_until_ms = max(active_ms, self.turned_ms(place)) + idle_ms if idle_ms else 0
        return min(until for until in (idle_until_ms, total_until_ms) if until)

    def with_ttl(self) -> Iterator[tuple[int, int]]:
        """Give those that are open and may expire, each with when it does."""
        for place in self._ttls:
            due = self.due_ms(place)
            if due is not None:
                yield due, place

    def gone(self, place: int, *, head: bool) -> None:
        """Forget a record that the log no longer has."""
        before = self._counted_as(place)
        if head:
            self._heads.pop(place, None)
        else:
            self._states.pop(place, None)
            self._ttls.pop(place, None)
        self._count(place, before)

    def forget_before(self, starts: Mapping[str, int]) -> None:
        """Forget the records that retention removed; `starts` are where the logs begin."""
        for spec in (SESSIONS, SESSION_STATES):
            start = starts[spec.name] << _TIME_BITS
            self._forget(spec, partial(gt, start))

    def _forget_old(self, spec: TopicSpec, now_ms: int) -> None:
        """Forget the records that are older than their topic keeps any."""
        since_ms = now_ms - (self._retention.ms(spec) or now_ms)
        mask = (1 << _TIME_BITS) - 1
        self._forget(spec, lambda at: at & mask < since_ms)

    def _forget(self, spec: TopicSpec, is_gone: Callable[[int], bool]) -> None:
        """Forget the records of a topic of whose offset and time, in one number, that is said."""
        is_head = spec is SESSIONS
        offsets, bits = (self._heads, 0) if is_head else (self._states, _STATE_BITS)
        for place in [place for place, at in offsets.items() if is_gone(at >> bits)]:
            self.gone(place, head=is_head)

    def _state(self) -> dict[str, Any]:
        # Copied here, packed where a snapshot is made of it: beside the loop.
        heads, states, ttls = self._heads.copy(), self._states.copy(), self._ttls.copy()
        return {
            "session_places": {
                "barriers_until_ms": self.barriers_until_ms,
                "heads": lambda: _numbers(heads, _HEAD_BYTES),
                "states": lambda: _numbers(states, _STATE_BYTES),
                "ttls": lambda: _rows_of(ttls, _TTL_BYTES),
            }
        }

    def _load(self, body: SnapshotBody) -> None:
        given = body.entries["session_places"]
        self.barriers_until_ms = given["barriers_until_ms"]
        self._heads |= _numbers_of(given["heads"], _HEAD_BYTES)
        self._states |= _numbers_of(given["states"], _STATE_BYTES)
        self._ttls |= {
            key: (idle, total, active)
            for key, idle, total, active in _rows(given["ttls"], _TTL_BYTES, 3)
        }

        known = self._heads.keys() | self._states.keys()
        self.counts = Counter(map(self._counted_as, known))

    def _counted_as(self, place: int) -> LifecycleState | None:
        return self.lifecycle(place) or ("open" if place in self._heads else None)

    def _count(self, place: int, before: LifecycleState | None) -> None:
        """Count a session that was counted as `before`."""
        after = self._counted_as(place)
        if after != before:
            self.counts[before] -= 1
            self.counts[after] += 1

    def _canonical(self) -> Any:
        # JSON has no numbers as long as these.
        known = (self._heads, self._states, self._ttls)
        return [[(f"{key:x}", str(one[key])) for key in sorted(one)] for one in known]


def _numbers(of_places: Mapping[int, int], width: int) -> bytes:
    """Pack a place and a number of `width` bytes each: 0.2 µs for each."""
    bits = 8 * width
    size = _KEY_BYTES + width
    return b"".join([(key << bits | at).to_bytes(size) for key, at in of_places.items()])


def _rows_of(of_places: Mapping[int, tuple[int, ...]], width: int) -> bytes:
    """Pack a place and numbers of `width` bytes each."""
    return b"".join(
        key.to_bytes(_KEY_BYTES) + b"".join([number.to_bytes(width) for number in numbers])
        for key, numbers in of_places.items()
    )


def _rows(packed: str, width: int, count: int) -> Iterator[list[int]]:
    """Unpack what `_numbers` packed, with `count` numbers in a row."""
    row = Struct(f"{_KEY_BYTES}s" + f"{width}s" * count)
    for parts in row.iter_unpack(base64.b64decode(packed)):
        yield list(map(int.from_bytes, parts))


def _numbers_of(packed: str, width: int) -> dict[int, int]:
    return {row[0]: row[1] for row in _rows(packed, width, 1)}
