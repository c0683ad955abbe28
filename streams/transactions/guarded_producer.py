"""Kafka's producer of transactions, watched over so that nothing of its own is left hanging."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition

from millstream.streams.broker.clients import transactional_producer
from millstream.streams.settings import Settings
from millstream.streams.transactions.hanging.marker_watch import (
    GuardTimes,
    MarkerGuard,
    TransactionHangs,
)

__all__ = ["GuardedProducer", "guarded_producer"]


class GuardedProducer:
    """One of `make`, which makes aiokafka's producer of one id anew.

    Implements `millstream.streams.transactions.producers.TransactionalProducer`.
    """

    def __init__(
        self,
        make: Callable[[], AIOKafkaProducer],
        *,
        follows: MarkerGuard | None = None,
        times: GuardTimes | None = None,
    ) -> None:
        self._make = make
        self._producer = make()
        self.guard = MarkerGuard(self._producer, follows=follows, times=times)

    @property
    def hanging(self) -> TransactionHangs | None:
        """What was found to hang."""
        return self.guard.hanging

    def successor(self) -> GuardedProducer:
        """Make another one of the same id, which knows where this one wrote."""
        return GuardedProducer(self._make, follows=self.guard, times=self.guard.times)

    async def start(self) -> None:
        """Fence every earlier producer of the id and abort what that left open."""
        await self._producer.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._producer.stop()

    async def begin_transaction(self) -> None:
        """Begin a transaction."""
        await self._producer.begin_transaction()

    def expect(self, places: Iterable[TopicPartition]) -> None:
        """Add partitions to the open transaction, without waiting for it."""
        manager = self._producer._txn_manager  # noqa: SLF001  it has no public way
        for where in places:
            manager.maybe_add_partition_to_txn(where)

    def create_batch(self) -> Any:
        """Make an empty batch."""
        return self._producer.create_batch()

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
        """Hand a batch over."""
        sent: asyncio.Future[Any] = await self._producer.send_batch(
            batch, topic, partition=partition
        )
        return sent

    async def commit_transaction(self) -> None:
        """Commit."""
        await self._producer.commit_transaction()

    async def abort_transaction(self) -> None:
        """Abort."""
        await self._producer.abort_transaction()

    async def look(self) -> None:
        """Ask about the last transaction if that is due. Raises `TransactionHangs`."""
        await self.guard.look()


def guarded_producer(settings: Settings, transactional_id: str) -> GuardedProducer:
    """Build the producer of a transactional id, not started."""
    return GuardedProducer(lambda: transactional_producer(settings, transactional_id))
