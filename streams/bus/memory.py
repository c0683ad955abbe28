"""A record log in memory: the bus's twin for tests and for trying things out. Nothing is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import TopicPartition

from millstream.schemas.base import Address
from millstream.schemas.errors import Misconfigured
from millstream.schemas.ports import ClockMs
from millstream.schemas.topics import TopicSpec
from millstream.streams.broker.batches import Outgoing
from millstream.streams.bus.api import Beginning, BusHooks, FromOffset, FromTime, Now, Start
from millstream.streams.bus.log_bus import LogBus
from millstream.streams.bus.record_log import Positions
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import Encoded
from millstream.streams.wire.records import LogRecord

__all__ = ["MemoryBroker", "MemoryBus", "MemoryLog"]


@dataclass(slots=True)
class _Stored:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryBroker:
    """Topics in memory. Several buses may share one, as processes share a broker."""

    def __init__(self, settings: Settings, clock: ClockMs = _wall_clock_ms) -> None:
        self._settings = settings
        self._clock = clock
        self._partitions: dict[TopicPartition, list[LogRecord]] = {}
        self._readers: set[_MemoryReader] = set()

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Create topics that do not exist yet."""
        for spec in specs:
            for partition in range(self._settings.partitions):
                target = TopicPartition(self._settings.topic(spec.name), partition)
                self._partitions.setdefault(target, [])

    def partition_count(self, topic: str) -> int:
        """Give a topic's number of partitions. Raises `Misconfigured` if it does not exist."""
        count = sum(1 for partition in self._partitions if partition.topic == topic)
        if not count:
            raise Misconfigured(f"no such topic in memory: {topic}")
        return count

    def append(
        self,
        target: TopicPartition,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
    ) -> Address:
        """Append any record, stamped with the broker's time."""
        records = self._partitions[target]
        topic, partition = target
        offset = len(records)
        records.append(_Stored(topic, partition, offset, self._clock(), key, value, tuple(headers)))
        for reader in self._readers:
            reader.wake()
        return Address(topic=topic, partition=partition, offset=offset)

    def records(self, partition: TopicPartition) -> Sequence[LogRecord]:
        """Give a partition's records, from offset 0."""
        return self._partitions[partition]

    def attach(self, reader: _MemoryReader) -> None:
        """Wake this reader whenever a record is appended."""
        self._readers.add(reader)

    def detach(self, reader: _MemoryReader) -> None:
        """Wake it no more."""
        self._readers.discard(reader)


class _MemoryReader:
    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._changed = asyncio.Event()

    def wake(self) -> None:
        self._changed.set()

    async def start(self) -> None:
        self._broker.attach(self)

    async def stop(self) -> None:
        self._broker.detach(self)

    async def offsets(self, partitions: Collection[TopicPartition], start: Start) -> Positions:
        return {one: self._offset(self._broker.records(one), start) for one in partitions}

    @staticmethod
    def _offset(records: Sequence[LogRecord], start: Start) -> int:
        match start:
            case Now():
                return len(records)
            case Beginning():
                return 0
            case FromOffset(offset=offset):
                return max(0, min(offset, len(records)))
            case FromTime(at_ms=at_ms):
                later = (record.offset for record in records if record.timestamp >= at_ms)
                return next(later, len(records))

    def assign(self, positions: Positions) -> None:
        self._positions = dict(positions)
        self._paused.clear()
        self.wake()

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._positions[partition] = offset
        self.wake()

    def pause(self, partition: TopicPartition) -> None:
        self._paused.add(partition)

    def resume(self, partition: TopicPartition) -> None:
        self._paused.discard(partition)
        self.wake()

    async def position(self, partition: TopicPartition) -> int:
        return self._positions[partition]

    async def read(
        self, partitions: Collection[TopicPartition] = (), *, records_max: int, wait_s: float
    ) -> Mapping[TopicPartition, Sequence[LogRecord]]:
        batches = self._take(partitions, records_max)
        if batches:
            return batches
        self._changed.clear()
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            return {}
        return self._take(partitions, records_max)

    def _take(
        self, partitions: Collection[TopicPartition], records_max: int
    ) -> dict[TopicPartition, Sequence[LogRecord]]:
        batches: dict[TopicPartition, Sequence[LogRecord]] = {}
        for partition, position in self._positions.items():
            if partition in self._paused or (partitions and partition not in partitions):
                continue
            records = self._broker.records(partition)[position : position + records_max]
            if records:
                batches[partition] = records
        for partition, records in batches.items():
            self._positions[partition] += len(records)
        return batches


class MemoryLog:
    """Implements `millstream.streams.bus.record_log.RecordLog` over a `MemoryBroker`."""

    address = "memory"

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing is under way."""

    async def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        """Ask the broker."""
        return {topic: self._broker.partition_count(topic) for topic in topics}

    async def append(self, record: Outgoing) -> Address:
        """Append a record."""
        return self._append(TopicPartition(record.topic, record.partition), record.encoded)

    async def append_all(self, records: Iterable[Outgoing]) -> list[Address]:
        """Append records."""
        return [
            self._append(TopicPartition(record.topic, record.partition), record.encoded)
            for record in list(records)
        ]

    def reader(self) -> _MemoryReader:
        """Make a reader, not started."""
        return _MemoryReader(self._broker)

    def _append(self, target: TopicPartition, encoded: Encoded) -> Address:
        return self._broker.append(target, encoded.key, encoded.value, encoded.headers)


class MemoryBus(LogBus):
    """A bus over `broker`, which several of them may share, as processes share a Kafka."""

    def __init__(
        self, settings: Settings, broker: MemoryBroker, hooks: BusHooks | None = None
    ) -> None:
        super().__init__(settings, MemoryLog(broker), hooks or BusHooks())
