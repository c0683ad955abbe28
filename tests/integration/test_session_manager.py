"""The manager of sessions on real Kafka and Redis, and what it reads there of what runs left."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio

from millstream.agents.sessions.manager import SessionFilter
from millstream.gateway.installation import HOME
from millstream.schemas.errors import ServiceUnavailable
from millstream.schemas.sessions.errors import SessionOutcomeUnknown, SessionUnknown
from millstream.schemas.topics import BASE_TOPICS
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.sessions.manager import SessionManager
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.views.service import Views
from tests.contracts.session_manager_contract import (
    Results,
    SessionManagerContract,
    Talk,
    results_of,
)
from tests.harness.lanes import running_lanes
from tests.services.running import Services
from tests.services.users import acting_as
from tests.support import eventually


@dataclass
class KafkaSessionWorld:
    """Lanes on Kafka, and Redis; no view follows but for what managers write."""

    settings: Settings
    bus: KafkaBus
    store: RedisSessionStore
    results: Results
    walk_steps: int = 20


@pytest.fixture(scope="module")
async def world(services: Services) -> AsyncIterator[KafkaSessionWorld]:
    settings = services.settings(namespace=f"t-{secrets.token_hex(6)}")
    await ensure_topics(settings, BASE_TOPICS)
    store = RedisSessionStore(settings)
    async with running_lanes(settings), KafkaBus(settings) as bus:  # it also looks
        yield KafkaSessionWorld(settings, bus, store, await results_of(bus))
    await store.close()


class TestSessionManagerOnKafka(SessionManagerContract):
    pass


async def test_a_namespace_without_workers_answers_nobody(settings: Settings) -> None:
    await ensure_topics(settings, BASE_TOPICS)
    store = RedisSessionStore(settings)
    async with (
        KafkaBus(acting_as(settings, "operator")) as bus,
        SessionManager(bus, store, timeout_s=3) as sessions,
    ):
        with pytest.raises(SessionOutcomeUnknown, match="does a worker run") as told:
            await sessions.create("ada", "s")
        assert told.value.is_published
        async with SessionManager(bus, store, timeout_s=0) as hasty:
            with pytest.raises(
                SessionOutcomeUnknown, match="Kafka did not answer within"
            ) as told_of:
                await hasty.create("ada", "t")
            assert not told_of.value.is_published
        async with running_lanes(settings), SessionManager(bus, store, timeout_s=30) as patient:
            again = await patient.create("ada", "s", command_id=told.value.command_id)
            assert (again.state, again.revision) == ("open", 1)
    await store.close()


async def test_a_command_is_carried_out_without_redis(world: KafkaSessionWorld) -> None:
    away = RedisSessionStore(world.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"}))
    async with SessionManager(world.bus, away, timeout_s=30) as sessions:
        talk = Talk(world, sessions)
        assert (await sessions.create(talk.user, "s")).state == "open"
        await talk.turn("say: one")
        told = await sessions.messages(talk.user, "s")
        assert [one.text for one in told] == ["say: one", "one"]
        with pytest.raises(ServiceUnavailable):
            await sessions.get(talk.user, "s")
    await away.close()


async def test_what_runs_left_is_listed_and_survives_a_flush_of_redis(
    world: KafkaSessionWorld,
) -> None:
    views = Views(
        acting_as(world.settings, "worker"),
        world.store,
        MetricsCollector(),
        marks=world.store.marks,
    )
    async with (
        AsyncExitStack() as stack,
        SessionManager(world.bus, world.store, timeout_s=30) as sessions,
    ):
        await views.start()
        stack.push_async_callback(views.stop)
        talk = Talk(world, sessions)
        user = talk.user
        for name in ("a", "b"):
            await sessions.create(user, name, metadata={"name": name})
            assert (await sessions.get(user, name)) is not None  # its own writes at once
        await talk.turn("say: one", "a")
        await talk.turn("say: two", "a")
        await sessions.close(user, "b")
        closed = SessionFilter(state="closed")
        assert [one.session_id for one in (await sessions.list(user, wanted=closed)).sessions] == [
            "b"
        ]

        async def are_seen() -> bool:  # head and checkpoints stand on topics of their own
            kept = await sessions.get(user, "a")
            found = await sessions.checkpoints(user, "a")
            return kept is not None and kept.turn == 2 and len(found) == 2

        await eventually(are_seen)
        stats = await sessions.stats(user)
        assert (stats.open, stats.closed, stats.turns) == (1, 1, 2)
        found = await sessions.checkpoints(user, "a")
        assert [one.turn for one in found] == [2, 1]
        await sessions.restore(user, "a", turn=1)
        told = await sessions.messages(user, "a")
        assert [one.text for one in told] == ["say: one", "one"]
        async with redis.asyncio.Redis.from_url(world.settings.redis_url) as client:
            keys = [key async for key in client.scan_iter(f"{world.settings.namespace}:*")]
            await client.delete(*keys)
        assert await sessions.messages(user, "a") == told
        with pytest.raises(SessionUnknown):
            await sessions.messages(user, "never")
        await sessions.delete(user, "a")
        assert await sessions.get(user, "a") is None

        async def is_made_up_for() -> bool:
            return [one.session_id for one in (await sessions.list(user)).sessions] == ["b"]

        await eventually(is_made_up_for)


async def test_the_page_of_sessions_goes_from_create_to_delete_on_kafka(
    world: KafkaSessionWorld,
) -> None:
    page = (HOME / "docs" / "how-to" / "sessions.md").read_text("utf-8")
    known: dict[str, Any] = {}
    for text in re.findall(r"<!-- snippet: \w+ -->\n```python\n(.*?)```", page, re.DOTALL):
        exec(text, known)  # noqa: S102  our page
    async with known["connected"](world.settings) as sessions:
        name = await known["a_call"](sessions)
        talk = Talk(world, sessions, "ada")
        await talk.turn("say: hello", name)
        assert await known["transcript"](sessions, name) == "user: say: hello\nassistant: hello"
        await known["hang_up"](sessions, name)
        assert await known["is_refused"](sessions, name) == "session_closed"
        await known["forget"](sessions, name)
        assert await known["is_refused"](sessions, name) == "session_deleted"
