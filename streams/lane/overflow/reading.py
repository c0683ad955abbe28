"""Reading what a lane left on the log: who was deferred, and the requests themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

import structlog
from aiokafka import TopicPartition

from millstream.schemas.base import Address, UserKey
from millstream.schemas.errors import LaneLost, ServiceUnavailable
from millstream.schemas.lane_events import RequestsDeferred
from millstream.streams.broker.compacted import newest_of_each
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import Stage
from millstream.streams.lane.base.window import Entry, Window
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.wire.codec import decode
from millstream.streams.wire.records import InputRecord

log = structlog.get_logger(__name__)

_TURN_RECORDS = 32
"""Records that are read in one go before other tasks have their turn."""


class UnreadReading(Protocol):
    """Tells of records that were left unread that they are read: by that a deadly one is found."""

    def looks_at(self, offset: int) -> bool:
        """Tell whether `may_read` is to be asked."""

    async def may_read(self, entry: Entry[InputRecord]) -> bool:
        """Tell that a record is read, before it is; false: it is buried, and not to be read."""

    async def were_read(self) -> None:
        """Tell that nothing is held against them any more."""


async def user_left(
    reading: UnreadReading, record: Any, stage: Stage, state: LaneState
) -> UserKey | None:
    """Give whose record stands there, `None` for nobody's, and for one that is buried."""
    where = Address(topic=record.topic, partition=record.partition, offset=record.offset)
    if state.is_buried(where):
        return None
    if reading.looks_at(record.offset):
        entry = Window[InputRecord](1).take(record.offset, InputRecord.of(record), lambda: None)
        if entry is not None and not await reading.may_read(entry):
            return None
    return stage.user_of(record.value)


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
