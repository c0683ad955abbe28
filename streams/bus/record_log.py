"""What the bus and the history reader need of a log of records; Kafka and memory both give it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from aiokafka import TopicPartition

from millstream.schemas.base import Address
from millstream.schemas.errors import NoSuchPartition, Poison
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.topics import COMMAND_TOPICS, REQUESTS, TopicSpec
from millstream.streams.broker.batches import Outgoing
from millstream.streams.bus.api import Delivery, EventFilter, Start, Unreadable
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode
from millstream.streams.wire.named import named_by
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.records import (
    InputRecord,
    LogRecord,
    is_input,
    original_address,
    read_input,
)

Positions = Mapping[TopicPartition, int]
"""The offset to read next, by partition."""

NO_ENDS: Positions = {}
"""Every partition is read on, for as long as records come."""

STANDS_TWICE = frozenset({REQUESTS.name, *(spec.name for spec in COMMAND_TOPICS)})
"""Topics on which a record may stand twice, and say by its headers where it first stood."""


class RecordReader(Protocol):
    """Reads committed records from the positions that it is given."""

    async def start(self) -> None:
        """Connect. Raises `ServiceUnavailable`."""

    async def stop(self) -> None:
        """Disconnect."""

    async def offsets(self, partitions: Collection[TopicPartition], start: Start) -> Positions:
        """Give where `start` is in each partition, between its oldest record and its end."""

    def assign(self, positions: Positions, ends: Positions = NO_ENDS) -> None:
        """Read these partitions, from these offsets, and no others.

        What stands at its partition's offset in `ends`, or behind it, need not be read.
        """

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read an assigned partition on from another offset."""

    def pause(self, partition: TopicPartition) -> None:
        """Leave an assigned partition be."""

    def resume(self, partition: TopicPartition) -> None:
        """Read a paused partition on."""

    async def position(self, partition: TopicPartition) -> int:
        """Give the offset that would be read next, past the markers of transactions."""

    async def read(
        self, partitions: Collection[TopicPartition] = (), *, records_max: int, wait_s: float
    ) -> Mapping[TopicPartition, Sequence[LogRecord]]:
        """Give what has come (of `partitions`, if given), after waiting up to `wait_s` for some.

        Raises `ServiceUnavailable`; it may be called again.
        """


class RecordLog(Protocol):
    """Appends records and makes readers."""

    address: str
    """Where it is, for messages."""

    async def start(self) -> None:
        """Connect. Raises `ServiceUnavailable`."""

    async def stop(self) -> None:
        """Send out what is under way, disconnect."""

    async def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        """Give the number of partitions of each topic. Raises `Misconfigured` for a missing one."""

    async def append(self, record: Outgoing) -> Address:
        """Append a record, acknowledged."""

    async def append_all(self, records: Iterable[Outgoing]) -> list[Address]:
        """Append records, acknowledged, in order within each partition.

        Takes all of `records` before it writes any.
        """

    def reader(self) -> RecordReader:
        """Make a reader, not started."""


def scope_of(
    settings: Settings,
    topics: Sequence[TopicSpec],
    wanted: EventFilter,
    counts: Mapping[str, int],
    *,
    only: int | None = None,
) -> dict[TopicPartition, TopicSpec]:
    """Give the partitions in which matching records can stand, in the order of `topics`.

    For a known user that is one partition of each per-user topic. With `only` it is at most that
    one of each. Raises `NoSuchPartition` if none of them has it.
    """
    most = max((counts[settings.topic(spec.name)] for spec in topics), default=0)
    if only is not None and only >= most:
        raise NoSuchPartition(
            f"there is no partition {only}: there are {most} partitions, 0 to {most - 1}"
        )
    scope: dict[TopicPartition, TopicSpec] = {}
    for spec in topics:
        name = settings.topic(spec.name)
        if wanted.user_key is not None and spec.placement == "per_user":
            partitions = [home_partition(wanted.user_key, counts[name])]
        else:
            partitions = list(range(counts[name]))
        scope.update({TopicPartition(name, partition): spec for partition in partitions})
    if only is not None:
        return {one: spec for one, spec in scope.items() if one.partition == only}
    return scope


Entry = Delivery | Unreadable


def read_entry(record: LogRecord, spec: TopicSpec) -> Entry:
    """Read a record of `spec`'s topic. Requests get the ids that their upstream left out."""
    address = Address(topic=record.topic, partition=record.partition, offset=record.offset)
    came_as = None
    try:
        if is_input(spec):
            whole = InputRecord.of(record)
            event = read_input(whole, spec)
            if spec.name in STANDS_TWICE:
                first = original_address(whole)
                if isinstance(event, ResolvedRequest):
                    first = event.source
                came_as = None if first == address else first
        else:
            event = decode(record, spec.event)
    except Poison as error:
        named = named_by(record.key, record.value, address)
        return Unreadable(address, record.timestamp, record.key, error, named)
    return Delivery(event, address, record.timestamp, came_as)
