"""A Kafka as it comes creates each topic that is asked about, with one partition. Ours are not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic

from millstream.gateway.exits import ExitCode
from millstream.schemas.errors import Misconfigured
from millstream.schemas.topics import BASE_TOPICS, REQUESTS, RESULTS
from millstream.streams.broker.clients import admin_client, committed_consumer, idempotent_producer
from millstream.streams.broker.topic_admin import partition_counts
from millstream.streams.settings import Settings
from tests.contracts.log_world import started
from tests.e2e.programs import as_client, run
from tests.harness.guarded_kafka import own_kafka
from tests.harness.worker_process import worker_process


@pytest.fixture
async def stock(settings: Settings, tmp_path: Path) -> AsyncIterator[Settings]:
    """A broker of its own that creates topics by itself, which is Kafka's default."""
    async with own_kafka(settings, tmp_path, (("auto.create.topics.enable", "true"),)) as here:
        yield here


async def topics_of(settings: Settings) -> set[str]:
    admin = admin_client(settings)
    await admin.start()
    try:
        return {one for one in await admin.list_topics() if one.startswith(settings.namespace)}
    finally:
        await admin.close()


async def test_who_asks_about_topics_creates_none(stock: Settings) -> None:
    name = stock.topic(REQUESTS.name)
    with pytest.raises(Misconfigured):
        await partition_counts(stock, {name})
    async with started(committed_consumer(stock)) as consumer:
        consumer.subscribe([stock.topic(RESULTS.name)])
        assert await consumer.getmany(timeout_ms=500) == {}
    async with started(idempotent_producer(stock)) as producer:
        await producer.client.add_topic(name)
    assert await topics_of(stock) == set()


@pytest.mark.slow
async def test_whatever_is_asked_first_a_worker_then_creates_the_topics_as_they_are_to_be(
    stock: Settings,
) -> None:
    variables = as_client(stock)
    for command in (("doctor",), ("topics", "--check"), ("history",), ("submit", "hello")):
        await run(variables, *command)
    assert await topics_of(stock) == set()
    async with worker_process(stock) as worker:
        await worker.ready()
    counts = await partition_counts(stock, {stock.topic(one.name) for one in BASE_TOPICS})
    assert set(counts.values()) == {stock.partitions}


async def test_creating_topics_fails_where_one_that_is_there_stops_every_worker(
    settings: Settings,
) -> None:
    admin = admin_client(settings)
    await admin.start()
    await admin.create_topics([NewTopic(settings.topic(REQUESTS.name), 1, 1)])
    await admin.close()
    told = await run(as_client(settings), "topics", "--create")
    assert told.code == ExitCode.DRIFT
    assert "the number of partitions is 1" in told.err
