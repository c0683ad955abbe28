"""Faust's consumer, as it is changed here, on a real aiokafka consumer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.types import TP

from millstream.schemas.topics import CONTROL, REQUESTS
from millstream.streams.broker.clients import committed_consumer, connecting, idempotent_producer
from millstream.streams.broker.fetched.eager_fetcher import EagerFetcher
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.consumer.faust_app import build_app, stop_app
from millstream.streams.consumer.faust_consumer import CommittedConsumerThread
from millstream.streams.settings import Settings
from tests.support import eventually


async def test_partitions_take_turns_however_much_is_fetched_of_one(settings: Settings) -> None:
    settings = settings.model_copy(update={"partitions": 2})
    await ensure_topics(settings, [REQUESTS])
    long, short = (TopicPartition(settings.topic(REQUESTS.name), number) for number in (0, 1))
    producer = idempotent_producer(settings)
    consumer = committed_consumer(settings)
    thread = CommittedConsumerThread.__new__(CommittedConsumerThread)
    thread.consumer, thread._handed = SimpleNamespace(flow_active=True), {}
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


async def test_what_was_fetched_before_a_seek_comes_again_though_nothing_is_committed(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"partitions": 1})
    await ensure_topics(settings, [REQUESTS])
    place = TP(settings.topic(REQUESTS.name), 0)
    producer = idempotent_producer(settings)
    consumer = AIOKafkaConsumer(
        place.topic,
        **connecting(settings),
        group_id=settings.namespace,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    thread = CommittedConsumerThread.__new__(CommittedConsumerThread)
    thread.consumer, thread._handed = SimpleNamespace(flow_active=True), {}
    thread._consumer, thread._known_committed = consumer, {}
    await producer.start()
    await consumer.start()
    try:
        sent = await producer.send_and_wait(place.topic, b"x", partition=place.partition)

        async def fetch() -> list[int]:
            found = await thread._fetch_records(consumer, {place}, timeout=1, max_records=10)
            return [record.offset for record in found.get(place, ())]

        first = await eventually(fetch)
        assert await thread.seek_to_committed_of([place]) == {place: None}
        again = await eventually(fetch)
    finally:
        await consumer.stop()
        await producer.stop()
    assert first == again == [sent.offset]


async def test_an_agent_without_room_holds_up_no_other(settings: Settings) -> None:
    settings = settings.model_copy(update={"partitions": 2})
    await ensure_topics(settings, [REQUESTS, CONTROL])
    crowded, other = (settings.topic(spec.name) for spec in (REQUESTS, CONTROL))
    app = build_app(settings, "crowded")
    has_room, came = asyncio.Event(), asyncio.Event()

    async def take_none(stream: Any) -> None:
        async for _ in stream.events():
            await has_room.wait()

    async def take(stream: Any) -> None:
        async for _ in stream.events():
            came.set()

    app.agent(app.raw_topic(crowded), name="busy")(take_none)
    app.agent(app.raw_topic(other), name="free")(take)
    producer = idempotent_producer(settings)
    await producer.start()
    await app.start()
    try:
        most = app.conf.stream_buffer_maxsize
        sent = [await producer.send(crowded, b"x", partition=n % 2) for n in range(3 * most)]
        await asyncio.gather(*sent)
        (channel,) = app.topics._tp_index[TP(crowded, 0)]
        # Lanes and views read by this one.
        assert isinstance(app.consumer._thread._consumer._fetcher, EagerFetcher)

        def lanes_have_room() -> bool:
            """Have both partitions read on, as lanes do that have room, whatever is buffered."""
            for number in range(2):
                app.consumer.on_buffer_drop(TP(crowded, number))
            return True

        least = most - app.conf.broker_max_poll_records
        await eventually(lambda: lanes_have_room() and channel.queue.qsize() > least)
        await producer.send_and_wait(other, b"x", partition=0)
        await eventually(lambda: lanes_have_room() and came.is_set())
    finally:
        has_room.set()
        await stop_app(app)
        await producer.stop()
