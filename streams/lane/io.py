"""What a lane asks of Kafka: handed in, so that its twin in memory can take its place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from aiokafka import TopicPartition

from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.broker.partition_reader import Consumer, PartitionReader
from millstream.streams.broker.read_clients import KafkaReadClients
from millstream.streams.settings import Settings
from millstream.streams.transactions.guarded_producer import GuardedProducer, guarded_producer
from millstream.streams.transactions.hanging.recovery import HangingTransactions
from millstream.streams.transactions.producers import TransactionalProducer

__all__ = ["HangingGuard", "KafkaLaneIO", "LaneIO", "MemoryLaneIO"]


class HangingGuard(Protocol):
    """Ends transactions that hang, while a lane waits for what they hold back."""

    fenced: frozenset[str]
    """Transactional ids whose producers the lane has fenced: no others are touched."""

    def watched(self) -> AbstractAsyncContextManager[None]:
        """End what hangs while the block runs."""
        ...


class LaneIO(Protocol):
    """Makes the clients of one lane. Nothing that it makes is started."""

    def transactional_producer(self, transactional_id: str) -> TransactionalProducer:
        """Make a producer that fences, when it starts, whoever had the id before."""
        ...

    def reader(self) -> PartitionReader:
        """Make a reader of committed records."""
        ...

    def consumer(self) -> Consumer:
        """Make a consumer of committed records, to follow what other lanes commit."""
        ...

    def hanging(self, partitions: Collection[TopicPartition]) -> HangingGuard:
        """Make what ends transactions that hang on `partitions`."""
        ...


class KafkaLaneIO:
    """`LaneIO` over Kafka."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def transactional_producer(self, transactional_id: str) -> GuardedProducer:
        """Make a producer of aiokafka that is watched over."""
        return guarded_producer(self._settings, transactional_id)

    def reader(self) -> PartitionReader:
        """Make a reader over consumers of aiokafka."""
        return PartitionReader(self._settings)

    def consumer(self) -> Consumer:
        """Make a consumer of aiokafka."""
        consumer: Consumer = KafkaReadClients(self._settings).consumer()
        return consumer

    def hanging(self, partitions: Collection[TopicPartition]) -> HangingTransactions:
        """Make what asks brokers and coordinators by raw requests."""
        return HangingTransactions(self._settings, partitions)


class MemoryLaneIO:
    """`LaneIO` over a broker in memory, which other lanes may share."""

    def __init__(self, settings: Settings, broker: MemoryBroker) -> None:
        self._settings = settings
        self._clients = MemoryClients(broker)

    def transactional_producer(self, transactional_id: str) -> TransactionalProducer:
        """Make a producer in memory."""
        return self._clients.transactional_producer(transactional_id)

    def reader(self) -> PartitionReader:
        """Make a reader over consumers in memory."""
        return PartitionReader(self._settings, self._clients)

    def consumer(self) -> Consumer:
        """Make a consumer in memory."""
        return self._clients.consumer()

    def hanging(self, _partitions: Collection[TopicPartition]) -> HangingGuard:
        """Make what ends nothing: what hangs in memory is the test's to end."""
        return _NoGuard()


class _NoGuard:
    fenced: frozenset[str] = frozenset()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        yield
