"""Reading what a lane left on the log: who was deferred, and the requests themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog
from aiokafka import TopicPartition

from millstream.schemas.errors import LaneLost, ServiceUnavailable
from millstream.schemas.lane_events import RequestsDeferred
from millstream.streams.broker.compacted import newest_of_each
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.wire.codec import decode

log = structlog.get_logger(__name__)

_TURN_RECORDS = 32
"""Records that are read in one go before other tasks have their turn."""


async def deferred_users(
    reader: PartitionReader, where: TopicPartition, input_name: str
) -> list[RequestsDeferred]:
    """Read the topic `deferred`: whose requests of the input topic are left, and from where on.

    Raises `LaneLost` or `ServiceUnavailable`.
    """
    found = []
    for _, event in await newest_of_each(
        reader, where, lambda record: decode(record, RequestsDeferred)
    ):
        if event.input == input_name:
            found.append(event)
            continue
        log.error(
            "requests of a chain that was cut otherwise wait until it is cut so again",
            topic=event.input,
            partition=where.partition,
            from_offset=event.from_offset,
        )
    return found


async def stretch(
    reader: PartitionReader, where: TopicPartition, start: int, end: int
) -> AsyncGenerator[Any, None]:
    """Give a partition's committed records from `start` to before `end`.

    Others have their turn meanwhile. Raises `LaneLost`.
    """
    try:
        async with (
            reader.lock,
            aclosing(reader.read({where: end}, from_offset=start)) as records,
        ):
            count = 0
            async for record in records:
                yield record
                count += 1
                if count % _TURN_RECORDS == 0:
                    await asyncio.sleep(0)
    except ServiceUnavailable as error:
        raise LaneLost(f"requests that wait cannot be read: {error}") from error
