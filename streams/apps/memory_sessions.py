"""The sessions of an app in memory: a manager, the view that it reads, and what feeds its lane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import TopicPartition

from millstream.agents.executor import wall_clock_ms
from millstream.schemas.topics import COMMAND_TOPICS
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.bus.memory import MemoryBus
from millstream.streams.sessions.following import FollowingSessionStore
from millstream.streams.sessions.manager import SessionManager
from millstream.streams.settings import Settings
from millstream.streams.wire.records import InputRecord

__all__ = ["memory_sessions"]

_WAIT_MS: Final = 3_600_000


@asynccontextmanager
async def memory_sessions(
    settings: Settings, broker: MemoryBroker, serve: Callable[[InputRecord], None]
) -> AsyncIterator[SessionManager]:
    """Give a manager over a broker of one partition; commands are handed to `serve`."""
    async with (
        MemoryBus(settings, broker) as bus,
        FollowingSessionStore(settings, broker, wall_clock_ms) as store,
        SessionManager(bus, store) as sessions,
    ):
        consumer = MemoryClients(broker).consumer()
        await consumer.start()
        # Also what the lane asks itself: that a session expires whose time is over.
        consumer.assign([TopicPartition(settings.topic(one.name), 0) for one in COMMAND_TOPICS])

        async def hand_on() -> None:
            while True:
                for records in (await consumer.getmany(timeout_ms=_WAIT_MS)).values():
                    for record in records:
                        serve(InputRecord.of(record))

        handing_on = asyncio.create_task(hand_on(), name="commands")
        try:
            yield sessions
        finally:
            handing_on.cancel()
            await asyncio.wait([handing_on])
            await consumer.stop()
