"""A view in memory that follows the log by itself: for tests, and for an app in one process."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Self

from aiokafka import TopicPartition

from millstream.agents.sessions.manager import (
    ANY_SESSION,
    SessionCheckpoint,
    SessionFilter,
    SessionInfo,
    SessionOrder,
    SessionPage,
    SessionStats,
    StoredCheckpoint,
)
from millstream.schemas.events import AgentResult, CheckpointSaved, SessionUpdated
from millstream.schemas.ports import ClockMs
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import CHECKPOINTS, RESULTS, SESSION_STATES, SESSIONS, TopicSpec
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.broker.memory.consumer import MemoryConsumer
from millstream.streams.sessions.memory import MemorySessionStore
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode

__all__ = ["FollowingSessionStore"]

_FOLLOWED: Final = (CHECKPOINTS, RESULTS, SESSIONS, SESSION_STATES)


class FollowingSessionStore(MemorySessionStore):
    """Reads on before each answer, and so is never behind; `async with` starts and stops it."""

    def __init__(self, settings: Settings, broker: MemoryBroker, clock_ms: ClockMs) -> None:
        super().__init__(clock_ms)
        self._places: dict[TopicPartition, TopicSpec] = {
            TopicPartition(settings.topic(spec.name), number): spec
            for spec in _FOLLOWED
            for number in range(broker.partition_count(settings.topic(spec.name)))
        }
        self._consumer: MemoryConsumer = MemoryClients(broker).consumer()
        self._reading = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Begin with the oldest records."""
        await self._consumer.start()
        self._consumer.assign(list(self._places))
        for where in self._places:
            self._consumer.seek(where, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Read no more."""
        await self._consumer.stop()

    async def get_checkpoint(
        self, tenant: str, user_id: str, session_id: str
    ) -> StoredCheckpoint | None:
        """Give the newest checkpoint."""
        await self._catch_up()
        return await super().get_checkpoint(tenant, user_id, session_id)

    async def get(self, tenant: str, user_id: str, session_id: str) -> SessionInfo | None:
        """Give a session."""
        await self._catch_up()
        return await super().get(tenant, user_id, session_id)

    async def list(
        self,
        tenant: str,
        user_id: str,
        *,
        limit: int,
        after: str | None = None,
        order: SessionOrder = "newest",
        wanted: SessionFilter = ANY_SESSION,
    ) -> SessionPage:
        """Give a page of a user's sessions."""
        await self._catch_up()
        return await super().list(
            tenant, user_id, limit=limit, after=after, order=order, wanted=wanted
        )

    async def checkpoints(
        self, tenant: str, user_id: str, session_id: str
    ) -> tuple[SessionCheckpoint, ...]:
        """Give a session's checkpoints."""
        await self._catch_up()
        return await super().checkpoints(tenant, user_id, session_id)

    async def stats(self, tenant: str, user_id: str) -> SessionStats:
        """Add up a user's sessions."""
        await self._catch_up()
        return await super().stats(tenant, user_id)

    async def stats_of_all(self) -> SessionStats:
        """Add up everybody's sessions."""
        await self._catch_up()
        return await super().stats_of_all()

    async def _catch_up(self) -> None:
        async with self._reading:
            while fetched := await self._consumer.getmany():
                for where, records in fetched.items():
                    for record in records:
                        if record.value is not None:  # a head whose session was deleted
                            await self._put(
                                decode(record, self._places[where].event), record.offset
                            )

    async def _put(self, event: Any, offset: int) -> None:
        match event:
            case CheckpointSaved():
                await self.put_checkpoint(event, offset)
            case AgentResult():
                await self.note_result(event, offset)
            case SessionUpdated():
                await self.put_head(event, offset)
            case SessionState():
                await self.put_state(event)
