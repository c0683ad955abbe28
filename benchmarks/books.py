"""What has become of each request of a backlog, told by the topics once its worker has stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
from aiokafka import TopicPartition

from millstream.schemas.lane_events import RequestsDeferred
from millstream.schemas.topics import DEFERRED, PARKED, REQUESTS, RESULTS, TopicSpec
from millstream.streams.broker.clients import admin_client
from millstream.streams.broker.compacted import newest_of_each
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode

__all__ = ["Books", "balanced"]


@dataclass(frozen=True, slots=True)
class Books:
    """How many requests were read, and how many of these have a result, more than one, or wait.

    What was read, has no result and does not wait is `lost`.
    """

    read: int
    answered: int
    twice: int
    waiting: int
    lost: int


async def balanced(settings: Settings, *, partition: int, prefix: str) -> Books:
    """Count the requests of one partition whose ids begin with `prefix`, exactly."""
    where = _at(settings, REQUESTS, partition)
    committed = await _committed(settings, where)
    async with _reading(settings) as reader:
        results = await _results(settings, reader, partition, prefix)
        parked = {
            request_id
            for _, request_id in await newest_of_each(
                reader,
                _at(settings, PARKED, partition),
                lambda record: str(orjson.loads(record.value)["request_id"]),
            )
        }
        deferred = {
            event.user_id: event.from_offset
            for _, event in await newest_of_each(
                reader,
                _at(settings, DEFERRED, partition),
                lambda record: decode(record, RequestsDeferred),
            )
        }
        read = waiting = lost = 0
        async for record in reader.read({where: committed}):
            asked = orjson.loads(record.value)
            request_id = asked["request_id"]
            if not request_id.startswith(prefix):
                continue
            read += 1
            if results[request_id]:
                continue
            since = deferred.get(asked["user_id"])
            waits = request_id in parked or (since is not None and record.offset >= since)
            waiting += waits
            lost += not waits
    twice = sum(count > 1 for count in results.values())
    return Books(read, len(results), twice, waiting, lost)


async def _results(
    settings: Settings, reader: PartitionReader, partition: int, prefix: str
) -> Counter[str]:
    where = _at(settings, RESULTS, partition)
    found: Counter[str] = Counter()
    async for record in reader.read(await reader.high_watermarks([where])):
        request_id = orjson.loads(record.value)["request_id"]
        if request_id.startswith(prefix):
            found[request_id] += 1
    return found


async def _committed(settings: Settings, where: TopicPartition) -> int:
    """Give up to where the lanes have acknowledged a partition: what is behind that is unread."""
    admin = admin_client(settings)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(f"{settings.namespace}-lanes")
    finally:
        await admin.close()
    return int(offsets[where].offset)


def _at(settings: Settings, spec: TopicSpec, partition: int) -> TopicPartition:
    return TopicPartition(settings.topic(spec.name), partition)


@asynccontextmanager
async def _reading(settings: Settings) -> AsyncIterator[PartitionReader]:
    reader = PartitionReader(settings)
    await reader.start()
    try:
        yield reader
    finally:
        await reader.stop()
