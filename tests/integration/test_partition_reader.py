"""Stretches of a partition on real Kafka: committed records, to an end that was known before."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.protocol.fetch import FetchRequest

from millstream.schemas.events import AgentToken, CheckpointSaved, SessionUpdated
from millstream.schemas.runs.errors import CheckpointUnreadable
from millstream.schemas.topics import CHECKPOINTS, DECISIONS, SESSIONS, TOKENS
from millstream.streams.broker.clients import idempotent_producer
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.lane.base.checkpoint_cache import CheckpointCache
from millstream.streams.lane.output.checkpoints import CheckpointSource
from millstream.streams.lane.output.outcomes import session_head
from millstream.streams.lane.runs.telling.token_publisher import TokenPublisher
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode, encode, new_trace
from tests import making
from tests.contracts.reader_contract import ReaderContract
from tests.harness.lane_common import no_redis
from tests.harness.log_worlds import KafkaWorld


class TestKafkaReader(ReaderContract):
    @pytest.fixture
    def world(self, settings: Settings) -> KafkaWorld:
        return KafkaWorld(settings)


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[PartitionReader]:
    reader = PartitionReader(settings)
    await reader.start()
    try:
        yield reader
    finally:
        await reader.stop()


def asked(consumer: Any, kind: type) -> list[Any]:
    """Give the list that all requests of a kind go into that a reader's client sends from now."""
    client = consumer._client  # the only place that all requests come by
    send, sent = client.send, []

    async def send_and_note(node_id: int, request: Any, **more: Any) -> Any:
        if isinstance(request, kind):
            sent.append(request)
        return await send(node_id, request, **more)

    client.send = send_and_note
    return sent


async def written(settings: Settings, where: TopicPartition, *values: bytes) -> list[int]:
    """Write records one after the other, all under one key; gives their broker times."""
    producer = idempotent_producer(settings)
    await producer.start()
    try:
        return [
            (
                await producer.send_and_wait(where.topic, value, b"key", partition=where.partition)
            ).timestamp
            for value in values
        ]
    finally:
        await producer.stop()


async def values(
    reader: PartitionReader,
    where: TopicPartition,
    end: int,
    *,
    since_ms: int | None = None,
    stall_timeout_s: float = 30,
) -> list[bytes]:
    stretch = reader.read({where: end}, since_ms=since_ms, stall_timeout_s=stall_timeout_s)
    return [record.value async for record in stretch]


async def test_nothing_is_fetched_that_was_not_asked_for(settings: Settings) -> None:
    """A fetch that finds nothing holds up what is asked behind it: 0.1 s for each topic."""
    await ensure_topics(settings, [DECISIONS, SESSIONS])
    full, empty = (TopicPartition(settings.topic(one.name), 0) for one in (DECISIONS, SESSIONS))
    times = await written(settings, full, b"0", b"1", b"2")
    async with reading(settings) as reader:
        fetches = asked(reader._consumer, FetchRequest)
        assert await values(reader, empty, 0) == []
        assert await values(reader, empty, 0, since_ms=times[0]) == []
        assert await values(reader, full, 3, since_ms=times[-1] + 1) == []
        assert fetches == []
        stretch = reader.read({full: 3}, from_offset=2)
        assert [record.value async for record in stretch] == [b"2"]
    offsets = {offset for one in fetches for _, parts in one.topics for _, offset, _ in parts}
    assert min(offsets) == 2


async def test_the_ends_of_many_topics_are_asked_for_at_once(settings: Settings) -> None:
    specs = [CHECKPOINTS, DECISIONS, SESSIONS, TOKENS]
    await ensure_topics(settings, specs)
    async with reading(settings) as reader:
        client = reader._ends._consumer._client
        fetches, updates, update = (
            asked(reader._ends._consumer, FetchRequest),
            [],
            client._metadata_update,
        )

        async def update_and_note(cluster: Any, topics: Iterable[str]) -> Any:
            updates.append(set(topics))
            return await update(cluster, topics)

        client._metadata_update = update_and_note
        places = [TopicPartition(settings.topic(one.name), 0) for one in specs]
        assert await reader.high_watermarks(places) == dict.fromkeys(places, 0)
    # Several only if a topic's leader is not there yet.
    assert all(topics == {place.topic for place in places} for topics in updates)
    assert fetches == []


def checkpoint(turn: int, session: str = "s") -> CheckpointSaved:
    return making.checkpoint(turn, session_id=session, data=f"state {turn}")


@pytest.mark.promise("P6")
async def test_a_checkpoint_that_nobody_remembers_is_found_in_the_log(settings: Settings) -> None:
    await ensure_topics(settings, [CHECKPOINTS])
    where = TopicPartition(settings.topic(CHECKPOINTS.name), 0)
    records = [
        encode(checkpoint(1), source="/t").value,
        encode(checkpoint(2, session="other"), source="/t").value,
        b"no checkpoint",
        encode(checkpoint(2), source="/t").value,
        encode(checkpoint(3), source="/t").value,
    ]
    await written(settings, where, *records)

    def head_of(one: CheckpointSaved, offset_min: int = 0) -> SessionUpdated:
        return session_head(one, None, offset_min=offset_min)

    async with reading(settings) as reader:
        cached = CheckpointCache().of_lane()
        source = CheckpointSource(reader=reader, partition=where, peek=no_redis, cached=cached)
        for turn in (2, 1, 3):
            assert await source.load(head_of(checkpoint(turn))) == checkpoint(turn)
        together = await asyncio.gather(*(source.load(head_of(checkpoint(2))) for _ in range(3)))
        assert together == [checkpoint(2)] * 3
        with pytest.raises(CheckpointUnreadable, match="c2"):
            await source.load(head_of(checkpoint(2), offset_min=5))


async def test_flushed_tokens_stand_on_the_topic_in_their_order(settings: Settings) -> None:
    await ensure_topics(settings, [TOKENS])
    where = TopicPartition(settings.topic(TOKENS.name), 1)
    producer = idempotent_producer(settings)
    await producer.start()
    tokens = [making.token(request_id="r", seq=seq, text=f"{seq} ") for seq in range(100)]
    try:
        publisher = TokenPublisher(
            producer,
            topic=where.topic,
            partition=where.partition,
            source="/t",
            traceparent=new_trace(),
            unacknowledged_max=4,
        )
        for token in tokens:
            await publisher.write(token)
        await publisher.flush()
        async with reading(settings) as reader:
            end = (await reader.high_watermarks([where]))[where]
            read = [decode(record, AgentToken) async for record in reader.read({where: end})]
    finally:
        await producer.stop()
    assert read == tokens


async def test_stretches_that_are_not_read_to_their_end_leave_nothing(settings: Settings) -> None:
    where = TopicPartition(settings.topic(DECISIONS.name), 0)
    await ensure_topics(settings, [DECISIONS])
    count = 1100  # more than are taken at once out of what was fetched
    producer = idempotent_producer(settings)
    await producer.start()
    try:
        sent = [await producer.send(where.topic, b"x", b"key", partition=0) for _ in range(count)]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    async with reading(settings) as reader:
        gc.collect()
        gc.disable()
        try:
            for offset in (0, 1, 0, 1, 0, 1):
                async with aclosing(reader.read({where: count}, from_offset=offset)) as records:
                    assert (await anext(records)).offset == offset
            # Not `isinstance`, which wakes whatever stands for something else; others' are others'.
            kept = sum(
                issubclass(type(one), fetcher.PartitionRecords) and one._tp == where
                for one in gc.get_objects()
            )
        finally:
            gc.enable()
    assert kept <= 1  # that of the last stretch
