"""A session that is taken back while its worker is killed and Redis is emptied, at each step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio
from aiokafka import AIOKafkaConsumer

from millstream.schemas.events import AgentRequest, AgentResult, CheckpointSaved
from millstream.schemas.sessions.commands import SessionCommand
from millstream.schemas.sessions.states import SessionAnswered
from millstream.schemas.topics import (
    CHECKPOINTS,
    RESULTS,
    SESSION_ANSWERS,
    catalogue,
)
from millstream.streams.broker.clients import connecting
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from tests.contracts.log_world import started
from tests.harness.lanes import read_topic, read_whole
from tests.harness.redis_servers import OddRedis, redis_server
from tests.harness.session_lines import breaks_on
from tests.harness.worker_process import WorkerProcess, worker_process
from tests.support import eventually

pytestmark = [pytest.mark.promise("P6"), pytest.mark.slow]

TURNS = 3


@dataclass
class Deployment:
    """A worker that can be killed, a Redis of its own, and a client of both."""

    settings: Settings
    server: OddRedis
    bus: KafkaBus
    stack: AsyncExitStack
    worker: WorkerProcess
    workers: int = 0
    asked: int = 0

    async def turn(self, text: str, expected: int) -> AgentResult:
        """Ask in session `s`, believing a turn to be the newest."""
        self.asked += 1
        name = f"r{self.asked}"
        await self.bus.publish(
            AgentRequest(
                user_id="ada",
                session_id="s",
                request_id=name,
                input=text,
                expected_turn=expected,
            )
        )
        results = await read_topic(self.settings, RESULTS, AgentResult, count=self.asked)
        return next(one for one in results if one.request_id == name)

    async def begin_worker(self) -> None:
        """Have another worker follow; nothing of a session is in its memory for long."""
        self.workers += 1
        few = {"MILLSTREAM_SESSIONS_IN_MEMORY": "1"}
        made = worker_process(self.settings, name=f"w{self.workers}", **few)
        self.worker = await self.stack.enter_async_context(made)
        await self.worker.ready()

    async def answers_to(self, name: str, times: int) -> list[SessionAnswered]:
        """Give the answers to a command, once there are so many."""

        async def found() -> list[SessionAnswered]:
            answers = await read_whole(self.settings, SESSION_ANSWERS, SessionAnswered)
            mine = [one for one in answers if one.command_id == name]
            return mine if len(mine) >= times else []

        return await eventually(found, timeout_s=60)


@asynccontextmanager
async def deployment(settings: Settings, folder: Path) -> AsyncIterator[Deployment]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(redis_server(folder))
        own = settings.model_copy(update={"redis_url": server.url})
        await ensure_topics(own, catalogue())
        bus = await stack.enter_async_context(KafkaBus(own))
        worker = await stack.enter_async_context(worker_process(own, name="w0"))
        await worker.ready()
        yield Deployment(own, server, bus, stack, worker)


async def before_it_is_read(one: Deployment, command: SessionCommand) -> None:
    await one.worker.kill()
    await one.bus.publish(command)


async def before_it_is_committed(one: Deployment, command: SessionCommand) -> None:
    # What a transaction holds is seen before its end by whoever reads what is not committed.
    topic = one.settings.topic(SESSION_ANSWERS.name)
    consumer = AIOKafkaConsumer(
        topic, **connecting(one.settings), isolation_level="read_uncommitted"
    )
    async with started(consumer):
        await consumer.seek_to_end()
        for where in consumer.assignment():
            await consumer.position(where)
        await one.bus.publish(command)
        await consumer.getone()
        await one.worker.kill()


async def before_the_view_has_it(one: Deployment, command: SessionCommand) -> None:
    await one.server.kill()
    await one.bus.publish(command)
    await one.answers_to(command.command_id, 1)
    await one.worker.kill()
    await one.server.start()


async def before_the_answer_is_seen(one: Deployment, command: SessionCommand) -> None:
    store = RedisSessionStore(one.settings)

    async def shown() -> bool:
        info = await store.get("default", "ada", "s")
        return info is not None and info.turn > TURNS

    await one.bus.publish(command)
    await eventually(shown, timeout_s=60)
    await store.close()
    await one.worker.kill()


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    "crash",
    [
        before_it_is_read,
        before_it_is_committed,
        before_the_view_has_it,
        before_the_answer_is_seen,
    ],
)
async def test_next_run_goes_on_from_where_the_session_was_taken_back_to(
    settings: Settings,
    tmp_path: Path,
    crash: Callable[[Deployment, SessionCommand], Awaitable[None]],
) -> None:
    async with deployment(settings, tmp_path) as one:
        for turn in range(TURNS):
            assert (await one.turn(f"say: {turn}", turn)).status == "completed"
        command = SessionCommand(
            user_id="ada", session_id="s", command_id="back", operation="restore", turn=1
        )
        await crash(one, command)
        async with redis.asyncio.Redis.from_url(one.server.url) as client:
            await client.flushall()
        await one.begin_worker()
        before = len(await one.answers_to("back", 1))
        await one.bus.publish(command)
        answers = await one.answers_to("back", before + 1)
        assert {(answer.refused, answer.turn) for answer in answers} == {(None, TURNS + 1)}
        assert (await one.turn("say: left", TURNS)).status == "rejected"
        assert (await one.turn("say: on", TURNS + 1)).status == "completed"
        saved = await read_whole(one.settings, CHECKPOINTS, CheckpointSaved)
        first, last = saved[0], saved[-1]
        assert (last.turn, last.parent_id) == (TURNS + 2, first.checkpoint_id)
        assert await breaks_on(one.settings) == []
