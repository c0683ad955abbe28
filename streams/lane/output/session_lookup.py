"""Looking a session up on the log that is not in memory: by the offset that its lane knows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Final, NamedTuple, TypeVar

from millstream.schemas.base import Event, compound_key
from millstream.schemas.errors import LaneLost, Poison, ServiceUnavailable
from millstream.schemas.events import SessionUpdated
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import SESSION_STATES, SESSIONS, TopicSpec
from millstream.streams.broker.compacted import pass_over
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.sessions.places import place_of
from millstream.streams.wire.codec import decode
from millstream.streams.wire.keys import SessionKey, session_key
from millstream.streams.wire.unread import UnreadBatch

__all__ = ["FoundSession", "SessionLookup"]

EventT = TypeVar("EventT", bound=Event)

NEAR_RECORDS: Final = 2_000
"""What stands no further on is read on to: a fetch brings some thousands of records anyway."""

_KEYS_MAX: Final = 100
"""Sessions of a user that are told of at once."""


class FoundSession(NamedTuple):
    """A session that was found; `is_newest`: by the record that is its newest state."""

    key: SessionKey
    is_newest: bool


class SessionLookup:
    """Brings what the log says of a lane's sessions into memory. Raises `LaneLost`."""

    def __init__(self, context: LaneContext, *, state: LaneState, reader: PartitionReader) -> None:
        self._context = context
        self._state = state
        self._places = state.session_places
        self._reader = reader

    async def recall(self, *sessions: SessionKey) -> None:
        """Have the states and heads of sessions in memory, as far as they have any.

        That of one stays while the caller waits for nothing else; more are `held`. It waits for
        nothing where they are.
        """
        while missing := [one for one in sessions if not self._state.has_at_hand(one)]:
            async with self._reader.lock:
                # Whoever had the lock before may have brought some.
                await self._recall_states(
                    {place_of(one) for one in missing if one not in self._state.session_states}
                )
                await self._recall_heads(
                    {place_of(one) for one in missing if one not in self._state.heads}
                )

    @contextmanager
    def held(self, sessions: Iterable[SessionKey]) -> Iterator[None]:
        """Keep in memory, until the end, what is recalled of these."""
        keys = tuple(sessions)
        with self._state.session_states.held(keys), self._state.heads.held(keys):
            yield

    async def states_at(self, places: Iterable[int]) -> dict[int, SessionState]:
        """Give the states that stand at these places; of some the log has none any more."""
        async with self._reader.lock:
            found = await self._recall_states(set(places))
        return {place_of(session_key(one)): one for one in found}

    async def of_user(self, tenant: str, user_id: str) -> AsyncIterator[list[FoundSession]]:
        """Give the sessions that a user has, deleted ones too, some at a time.

        Those of now: of those that begin meanwhile some may be missing. A session may come more
        than once, but only once where its newest state stands.
        """
        # Before the first is given: what comes of those is not to be found again.
        ends = await self._ends()
        state = self._state
        at_hand = [*state.heads.of_user(tenant, user_id)]
        at_hand += state.session_states.of_user(tenant, user_id)
        for start in range(0, len(at_hand), _KEYS_MAX):
            yield [FoundSession(one, False) for one in at_hand[start : start + _KEYS_MAX]]
        for spec, end in ends.items():
            async for found in self._on_log(spec, end, tenant, user_id):
                yield found

    async def _ends(self) -> dict[TopicSpec, int]:
        places = {spec: self._context.at(spec) for spec in (SESSIONS, SESSION_STATES)}
        try:
            async with self._reader.lock:
                ends = await self._reader.high_watermarks(places.values())
        except ServiceUnavailable as error:
            raise _unread(error) from error
        return {spec: ends[where] for spec, where in places.items()}

    async def _on_log(
        self, spec: TopicSpec, end: int, tenant: str, user_id: str
    ) -> AsyncIterator[list[FoundSession]]:
        """Give the sessions of a user by the keys of a topic: content need not be parsed."""
        where = self._context.at(spec)
        prefix = compound_key(tenant, user_id, "").encode()
        try:
            offset = 0
            while offset < end:
                found: list[FoundSession] = []
                # Not under the lock between two yields: a run may have to look something up.
                async with (
                    self._reader.lock,
                    aclosing(self._reader.read({where: end}, from_offset=offset)) as records,
                ):
                    offset = end
                    async for record in records:
                        key = record.key or b""
                        if not key.startswith(prefix):
                            continue
                        session = (tenant, user_id, key[len(prefix) :].decode(errors="replace"))
                        newest = self._places.state_offset(place_of(session))
                        is_state = spec is SESSION_STATES and newest == record.offset
                        found.append(FoundSession(session, is_state))
                        if len(found) >= _KEYS_MAX:
                            offset = record.offset + 1
                            break
                yield found
        except ServiceUnavailable as error:
            raise _unread(error) from error

    async def _recall_states(self, places: set[int]) -> list[SessionState]:
        """Take in the states that stand at these places; give them."""
        found: list[SessionState] = []
        async for place, state in self._read(
            SESSION_STATES, SessionState, {one: self._places.state_offset(one) for one in places}
        ):
            if state is None or place_of(session_key(state)) != place:
                self._places.gone(place, head=False)
                continue
            found.append(state)
            if session_key(state) not in self._state.session_states:
                self._state.session_states.remember(state)
        return found

    async def _recall_heads(self, places: set[int]) -> None:
        async for place, head in self._read(
            SESSIONS, SessionUpdated, {one: self._places.head_offset(one) for one in places}
        ):
            if head is None or place_of(session_key(head)) != place:
                self._places.gone(place, head=True)
            elif session_key(head) not in self._state.heads:
                self._state.heads.move(head)

    async def _read(
        self, spec: TopicSpec, kind: type[EventT], offsets: Mapping[int, int | None]
    ) -> AsyncIterator[tuple[int, EventT | None]]:
        """Give what stands at these places, `None` for what does not stand there any more.

        Of a place whose session was changed meanwhile nothing is given. Raises `LaneOutdated` for a
        batch that is corrupt: a session that is in it must not begin anew.
        """
        offset_now = self._places.head_offset if spec is SESSIONS else self._places.state_offset
        places = {offset: place for place, offset in offsets.items() if offset is not None}
        where = self._context.at(spec)
        try:
            for stretch in _stretches(sorted(places)):
                ends = {where: stretch[-1] + 1}
                records: Any = self._reader.read(ends, from_offset=stretch[0])
                async with aclosing(records):
                    async for record in records:
                        if isinstance(record.value, UnreadBatch):  # a session may be in it
                            pass_over(record, record.value.poison)
                        place = places.pop(record.offset, None)
                        if place is not None and offset_now(place) == record.offset:
                            yield place, _decoded(record, kind)
        except ServiceUnavailable as error:
            raise _unread(error) from error
        for offset, place in places.items():
            if offset_now(place) == offset:
                yield place, None


def _stretches(offsets: Sequence[int]) -> Iterator[list[int]]:
    """Part offsets, in their order, where so many records stand between two."""
    stretch: list[int] = []
    for offset in offsets:
        if stretch and offset > stretch[-1] + NEAR_RECORDS:
            yield stretch
            stretch = []
        stretch.append(offset)
    if stretch:
        yield stretch


def _decoded(record: Any, kind: type[EventT]) -> EventT | None:
    if record.value is None:
        return None
    try:
        return decode(record, kind)
    except Poison as poison:
        pass_over(record, poison)
        return None


def _unread(error: ServiceUnavailable) -> LaneLost:
    return LaneLost(f"sessions cannot be looked up: {error}")
