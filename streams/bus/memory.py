"""A record log in memory: the bus's twin for tests and for trying things out. Nothing is kept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from aiokafka import TopicPartition

from millstream.schemas.base import Address
from millstream.streams.broker.batches import Outgoing
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.bus.api import BusHooks
from millstream.streams.bus.consumer_reader import ConsumerReader
from millstream.streams.bus.log_bus import LogBus
from millstream.streams.settings import Settings

__all__ = ["MemoryBus", "MemoryLog"]


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
        return self._append(record)

    async def append_all(self, records: Iterable[Outgoing]) -> list[Address]:
        """Append records."""
        return [self._append(record) for record in list(records)]

    def reader(self) -> ConsumerReader:
        """Make a reader, not started."""
        return ConsumerReader(MemoryClients(self._broker))

    def _append(self, record: Outgoing) -> Address:
        where, encoded = TopicPartition(record.topic, record.partition), record.encoded
        return self._broker.append(where, encoded.key, encoded.value, encoded.headers)


class MemoryBus(LogBus):
    """A bus over `broker`, which several of them may share, as processes share a Kafka."""

    def __init__(
        self, settings: Settings, broker: MemoryBroker, hooks: BusHooks | None = None
    ) -> None:
        super().__init__(settings, MemoryLog(broker), hooks or BusHooks())
