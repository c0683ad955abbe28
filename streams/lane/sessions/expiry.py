"""Sessions whose time to live is over: asked for by a record, since the broker's time decides.

A lane does not trust its own clock with it. When a session seems due, it publishes `expire` with
`if_due`, and what the broker took down as that record's time says whether it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

from aiokafka.errors import KafkaError

from millstream.schemas.base import UserKey
from millstream.schemas.errors import LaneLost, ServiceUnavailable
from millstream.schemas.sessions.commands import SessionCommand
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import SESSION_COMMANDS
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.sessions.due_times import DueTimes
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.sessions.places import place_of
from millstream.streams.wire.codec import encode
from millstream.streams.wire.keys import SessionKey, session_key

__all__ = ["SessionExpiry"]

_AGAIN_MS: Final = 1000
"""A session that cannot expire yet, since a run of it is on, is looked at again after this time."""

_AT_ONCE_MAX: Final = 100
"""Sessions that are looked up and asked for together."""

_BEHIND_MS: Final = 20
"""The lane's clock may lag what it read of the broker's by so much; asked too early, it is asked
again."""


class SessionExpiry:
    """Asks for the expiry of one lane's sessions when it is due.

    `is_on` tells of a session whether a run of it is under way or waits, `is_deferred` of a user
    whether requests of theirs were left unread. `taken_in` gives the offset behind the last request
    that was taken in: one that stands unread came before the end of its session.
    """

    def __init__(
        self,
        context: LaneContext,
        *,
        state: LaneState,
        reader: PartitionReader,
        writer: LaneWriter,
        is_on: Callable[[SessionKey], bool],
        is_deferred: Callable[[UserKey], bool],
        taken_in: Callable[[], int],
    ) -> None:
        self._context = context
        self._services = context.services
        self._state = state
        self._places = state.session_places
        self._lookup = writer.sessions
        self._reader = reader
        self._source = writer.source
        self._is_on = is_on
        self._is_deferred = is_deferred
        self._taken_in = taken_in
        self._due = DueTimes()
        self._asked: dict[int, int] = {}
        self._changed = asyncio.Event()

    def open(self) -> None:
        """Learn which sessions may expire."""
        self._due.add_all(self._places.with_ttl())

    def watch(self, state: SessionState) -> None:
        """Hear of a session that was created or changed."""
        place = place_of(session_key(state))
        self._asked.pop(place, None)
        due = self._state.due_ms(state)
        if due is not None and self._due.add(due, place):
            self._changed.set()

    async def run(self) -> None:
        """Ask for each when it is due. Raises `LaneLost`."""
        await asyncio.sleep(self._services.limits.expires_after_opening_s)
        while True:
            self._changed.clear()
            now_ms = self._services.clock_ms()
            while places := self._due_by(now_ms):
                await self._look_at(places, now_ms)
            first, wait_s = self._due.first, None
            if first is not None:
                wait_s = (first + _BEHIND_MS - now_ms) / 1000
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _due_by(self, now_ms: int) -> list[int]:
        """Take out some of those whose time seems to have come; give where they are over indeed."""
        due: list[int] = []
        while len(due) < _AT_ONCE_MAX and (place := self._due.pop(now_ms)) is not None:
            due_ms = self._places.due_ms(place)
            if due_ms is not None and due_ms > now_ms:  # it was used since
                self._due.add(due_ms, place)
            elif due_ms is not None:
                due.append(place)
        return due

    async def _look_at(self, places: list[int], now_ms: int) -> None:
        states = await self._lookup.states_at(places)
        is_behind = await self._is_behind()
        asked = []
        for place in places:
            # What is not committed yet stands in memory only.
            found = states.get(place)
            state = None if found is None else self._state.session_states.get(session_key(found))
            state = found if state is None else state
            if state is None:
                if self._places.due_ms(place) is not None:  # it was written anew meanwhile
                    self._due.add(now_ms + _AGAIN_MS, place)
                continue
            key, due = session_key(state), self._state.due_ms(state)
            if due is None:
                continue
            if due > now_ms:
                self._due.add(due, place)
                continue
            if not (is_behind or self._is_taken(key)):
                asked.append(self._ask(key, due))
            # Asked too early by the broker's clock, it is refused and asked again.
            self._due.add(now_ms + _AGAIN_MS, place)
        await asyncio.gather(*asked)

    async def is_used(self, session: SessionKey) -> bool:
        """Tell whether a run of it is on or waits, or a request may stand unread that came in time.

        Raises `LaneLost`.
        """
        return self._is_taken(session) or await self._is_behind()

    def _is_taken(self, session: SessionKey) -> bool:
        """Tell whether a run of it is on or waits, here or where it was left unread."""
        return self._is_on(session) or self._is_deferred(session[:2])

    async def _is_behind(self) -> bool:
        """Tell whether requests stand on the log that were not taken in."""
        where = self._context.at(self._context.stage.input)
        try:
            async with self._reader.lock:
                ends = await self._reader.high_watermarks([where])
                if ends[where] <= self._taken_in():
                    return False
                # What stands there may be the marks of transactions.
                unread = self._reader.read(ends, from_offset=self._taken_in())
                async with aclosing(unread) as records:
                    async for _ in records:
                        return True
        except ServiceUnavailable as error:
            raise LaneLost(f"the end of the requests cannot be read: {error}") from error
        return False

    async def _ask(self, key: SessionKey, due: int) -> None:
        times = self._asked.get(place_of(key), 0)
        self._asked[place_of(key)] = times + 1
        tenant, user_id, session_id = key
        now_ms = self._services.clock_ms()
        command = SessionCommand(
            tenant=tenant,
            user_id=user_id,
            session_id=session_id,
            at_ms=now_ms,
            command_id=f"ttl:{now_ms}:{due}:{times}",
            operation="expire",
            if_due=True,
            by="millstream",
            why="its time to live is over",
        )
        encoded = encode(command, source=self._source)
        try:
            await self._services.producer.send_and_wait(
                self._context.settings.topic(SESSION_COMMANDS.name),
                encoded.value,
                encoded.key,
                self._context.partition,
                headers=encoded.headers,
            )
        except KafkaError as error:
            raise LaneLost(f"a session's end could not be asked for: {error!r}") from error
