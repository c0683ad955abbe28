"""Clients of a broker in memory, built in one place, as `clients.py` builds Kafka's."""

from __future__ import annotations

from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.consumer import MemoryConsumer, MemoryEnds
from millstream.streams.broker.memory.producers import MemoryProducer, MemoryTransactionalProducer

__all__ = ["MemoryClients"]


class MemoryClients:
    """Makes clients of `broker`, none of them started."""

    address = "memory"

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def consumer(self) -> MemoryConsumer:
        """Make a consumer of committed records."""
        return MemoryConsumer(self._broker)

    def ends(self) -> MemoryEnds:
        """Make what asks where partitions end."""
        return MemoryEnds(self._broker)

    def plain_producer(self) -> MemoryProducer:
        """Make an idempotent producer outside every transaction."""
        return MemoryProducer(self._broker)

    def transactional_producer(self, transactional_id: str) -> MemoryTransactionalProducer:
        """Make a producer of transactions."""
        return MemoryTransactionalProducer(self._broker, transactional_id)
