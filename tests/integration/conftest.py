"""Fixtures of the tests of views: topics, a producer, and views that are stopped at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiokafka import AIOKafkaProducer

from millstream.agents.sessions.manager import SessionStore
from millstream.schemas.topics import BASE_TOPICS
from millstream.streams.broker.clients import transactional_producer
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.sessions.memory import MemorySessionStore
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.views.service import Views
from tests.harness.views import StartViews
from tests.services.users import acting_as


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Have two partitions: each costs brokers 27 logs and a restore; most tests need no more."""
    return settings.model_copy(update={"partitions": 2})


@pytest.fixture
async def deployment(settings: Settings) -> Settings:
    await ensure_topics(settings, BASE_TOPICS)
    return settings


@pytest.fixture
async def producer(deployment: Settings) -> AsyncIterator[AIOKafkaProducer]:
    producer = transactional_producer(deployment, f"{deployment.namespace}-test")
    await producer.start()
    yield producer
    await producer.stop()


@pytest.fixture
async def start_views(deployment: Settings) -> AsyncIterator[StartViews]:
    """Starts views, which are stopped at the end of the test whatever became of it."""
    async with AsyncExitStack() as started:

        async def start(
            store: SessionStore | None = None, collector: MetricsCollector | None = None
        ) -> Views:
            marks = store.marks if isinstance(store, RedisSessionStore) else None
            views = Views(
                acting_as(deployment, "worker"),
                store or MemorySessionStore(lambda: 0),
                collector or MetricsCollector(),
                marks=marks,
            )
            started.push_async_callback(views.stop)
            await views.start()
            return views

        yield start
