"""All ten thousand sessions of a user are deleted by one command, whose worker is killed midway."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from millstream.agents.executor import wall_clock_ms
from millstream.schemas.events import AgentRequest, AgentResult, SessionUpdated
from millstream.schemas.sessions.commands import SessionCommand
from millstream.schemas.sessions.states import SessionAnswered, SessionChanged
from millstream.schemas.topics import RESULTS, SESSION_ANSWERS, SESSION_EVENTS, SESSIONS, catalogue
from millstream.streams.broker.batches import Outgoing, send_batches
from millstream.streams.broker.clients import transactional_producer
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.api import Delivery
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import encode
from millstream.streams.wire.partitioning import home_partition
from tests.harness.lanes import read_whole
from tests.harness.worker_process import worker_process

pytestmark = [pytest.mark.promise("P1"), pytest.mark.slow]

SESSIONS_OF_ADA = 10_000
KILLED_AFTER = 2_000
_AT_ONCE = 1_000


@pytest.mark.timeout(300)
async def test_all_are_deleted_once_and_others_are_served_meanwhile(settings: Settings) -> None:
    await ensure_topics(settings, catalogue())
    await fill(settings)
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(KafkaBus(settings))
        coming = await stack.enter_async_context(
            bus.tail((SESSION_ANSWERS, SESSION_EVENTS, RESULTS))
        )
        # With few in memory, each is looked up.
        few = {"MILLSTREAM_SESSIONS_IN_MEMORY": "100"}
        worker = await stack.enter_async_context(worker_process(settings, name="w0", **few))
        await worker.ready()
        await bus.publish(
            SessionCommand(user_id="ada", command_id="all", operation="delete", why="she left")
        )
        others = Others(bus, name_beside("ada", settings.partitions))
        await others.ask()
        answer = None
        deleted = 0
        async for one in coming:
            match one.event:
                case SessionChanged():
                    deleted += 1
                    if deleted == KILLED_AFTER:
                        await worker.kill()
                        worker = await stack.enter_async_context(
                            worker_process(settings, name="w1", **few)
                        )
                case SessionAnswered() as answer:
                    break
                case AgentResult():
                    await others.ask()
                case _:
                    pass
        assert answer is not None
        assert (answer.refused, answer.sessions) == (None, SESSIONS_OF_ADA)
        assert others.asked > 5  # each once the one before was answered
        last = await bus.publish(request("ada", "late", session_id="s7"))
        assert last is not None
        await result_of(coming, "late")
    changes = await read_whole(settings, SESSION_EVENTS, SessionChanged)
    assert Counter(one.session_id for one in changes) == Counter(
        f"s{number}" for number in range(SESSIONS_OF_ADA)
    )
    assert {(one.change, one.why) for one in changes} == {("deleted", "she left")}
    results = {one.request_id: one for one in await read_whole(settings, RESULTS, AgentResult)}
    reason = results.pop("late").reason
    assert reason is not None
    assert reason.code == "session_deleted"
    assert {one.status for one in results.values()} == {"completed"}


class Others:
    """Another user of ada's partition, who asks one thing after the other."""

    def __init__(self, bus: KafkaBus, user_id: str) -> None:
        self._bus = bus
        self._user_id = user_id
        self.asked = 0

    async def ask(self) -> None:
        """Ask the next."""
        self.asked += 1
        await self._bus.publish(request(self._user_id, f"r{self.asked}"))


def request(user_id: str, request_id: str, *, session_id: str = "mine") -> AgentRequest:
    return AgentRequest(
        user_id=user_id, request_id=request_id, session_id=session_id, input="say: x"
    )


async def result_of(coming: AsyncIterator[Delivery], request_id: str) -> None:
    """Wait for a result."""
    async with asyncio.timeout(60):
        async for one in coming:
            if isinstance(one.event, AgentResult) and one.event.request_id == request_id:
                return


def name_beside(user_id: str, partitions: int) -> str:
    """Give the name of another user whose partition is that of `user_id`."""
    home = home_partition(user_id, partitions)
    names = (f"user-{number}" for number in range(1000))
    return next(one for one in names if home_partition(one, partitions) == home)


async def fill(settings: Settings) -> None:
    """Write the heads of ada's sessions, as her lane would have."""
    home = home_partition("ada", settings.partitions)
    producer = transactional_producer(settings, f"{settings.namespace}-fill")
    await producer.start()
    try:
        for first in range(0, SESSIONS_OF_ADA, _AT_ONCE):
            async with producer.transaction():
                await send_batches(
                    producer,
                    [
                        Outgoing(settings.topic(SESSIONS.name), home, encode(head(n), source="/t"))
                        for n in range(first, first + _AT_ONCE)
                    ],
                )
    finally:
        await producer.stop()


def head(number: int) -> SessionUpdated:
    now_ms = wall_clock_ms()
    return SessionUpdated(
        user_id="ada",
        session_id=f"s{number}",
        request_id=f"old-{number}",
        at_ms=now_ms,
        created_at_ms=now_ms,
        checkpoint_id=f"c{number}",
        checkpoint_offset_min=0,
        turn=1,
    )
