"""What a lane asks of Kafka: handed in, so that its twin in memory can take its place."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from aiokafka import TopicPartition

from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.settings import Settings
from millstream.streams.transactions.guarded_producer import GuardedProducer, guarded_producer
from millstream.streams.transactions.hanging.recovery import HangingTransactions
from millstream.streams.transactions.producers import TransactionalProducer

__all__ = ["HangingGuard", "KafkaLaneIO", "LaneIO"]


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

    def hanging(self, partitions: Collection[TopicPartition]) -> HangingTransactions:
        """Make what asks brokers and coordinators by raw requests."""
        return HangingTransactions(self._settings, partitions)
