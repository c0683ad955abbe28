"""Faust's consumer, as it is changed here, on a real aiokafka consumer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from aiokafka import TopicPartition

from schemas.topics import REQUESTS
from streams.clients import committed_consumer, idempotent_producer
from streams.faust_consumer import CommittedConsumerThread
from streams.settings import Settings
from streams.topic_admin import ensure_topics
from tests.support import eventually


async def test_partitions_take_turns_however_much_is_fetched_of_one(settings: Settings) -> None:
    settings = settings.model_copy(update={"partitions": 2})
    await ensure_topics(settings, [REQUESTS])
    long, short = (TopicPartition(settings.topic(REQUESTS.name), number) for number in (0, 1))
    producer = idempotent_producer(settings)
    consumer = committed_consumer(settings)
    thread = CommittedConsumerThread.__new__(CommittedConsumerThread)
    thread.consumer = SimpleNamespace(flow_active=True)
    await producer.start()
    await consumer.start()
    try:
        where = [long] * 100 + [short]
        sent = [await producer.send(one.topic, b"x", partition=one.partition) for one in where]
        await asyncio.gather(*sent)
        consumer.assign([long, short])
        consumer.pause(short)
        fetched = consumer._fetcher._records
        await eventually(lambda: long in fetched)
        consumer.resume(short)
        await eventually(lambda: short in fetched)
        found = [
            await thread._fetch_records(consumer, {long, short}, timeout=1, max_records=10)
            for _ in range(2)
        ]
    finally:
        await consumer.stop()
        await producer.stop()
    assert [list(one) for one in found] == [[long], [short, long]]
