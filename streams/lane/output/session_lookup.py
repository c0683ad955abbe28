"""Looking a session up on the log that is not in memory: by the offset that its lane knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
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

__all__ = ["SessionLookup"]

EventT = TypeVar("EventT", bound=Event)

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

    async def recall(self, session: SessionKey) -> None:
        """Have a session's state and head in memory, as far as it has any.

        They stay while the caller waits for nothing else. It waits for nothing where they are.
        """
        while not self._state.has_at_hand(session):
            place = place_of(session)
            async with self._reader.lock:
                # Whoever had the lock before may have brought them.
                if session not in self._state.session_states:
                    await self._recall_state(place, session)
                if not self._state.has_head_at_hand(session):
                    await self._recall_head(place, session)

    async def session_at(self, place: int) -> SessionKey | None:
        """Give the session whose state stands at a place, `None` if the log has none any more."""
        async with self._reader.lock:
            state = await self._recall_state(place, None)
        return None if state is None else (state.tenant, state.user_id, state.session_id)

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

    async def _recall_state(self, place: int, session: SessionKey | None) -> SessionState | None:
        offset = self._places.state_offset(place)
        if offset is None:
            return None
        found = await self._record(SESSION_STATES, SessionState, offset)
        if self._places.state_offset(place) != offset:
            return None  # it was changed meanwhile
        key = None if found is None else (found.tenant, found.user_id, found.session_id)
        if found is None or key is None or place_of(key) != place or session not in {None, key}:
            self._places.gone(place, head=False)
            return None
        if key not in self._state.session_states:
            self._state.session_states.remember(found)
        return found

    async def _recall_head(self, place: int, session: SessionKey) -> None:
        offset = self._places.head_offset(place)
        if offset is None:
            return
        found = await self._record(SESSIONS, SessionUpdated, offset)
        if self._places.head_offset(place) != offset or session in self._state.heads:
            return  # it was moved meanwhile
        if found is None or session_key(found) != session:
            self._places.gone(place, head=True)
        else:
            self._state.heads.move(found)

    async def _record(self, spec: TopicSpec, kind: type[EventT], offset: int) -> EventT | None:
        """Read the one record at an offset, `None` if it is not there any more."""
        where = self._context.at(spec)
        try:
            stretch: Any = self._reader.read({where: offset + 1}, from_offset=offset)
            async with aclosing(stretch) as records:
                async for record in records:
                    if record.offset == offset and record.value is not None:
                        return decode(record, kind)
        except ServiceUnavailable as error:
            raise _unread(error) from error
        except Poison as poison:
            pass_over(record, poison)
        return None


def _unread(error: ServiceUnavailable) -> LaneLost:
    return LaneLost(f"sessions cannot be looked up: {error}")
