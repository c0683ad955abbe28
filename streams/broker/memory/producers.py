"""Producers in memory: what aiokafka's do, as far as a lane can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import (
    IllegalOperation,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata

from millstream.streams.broker.clients import BATCH_BYTES, REQUEST_BYTES_MAX
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.coordinator import Identity

__all__ = ["MemoryProducer", "MemoryTransactionalProducer"]

_UNCOMPRESSED = 0
_LOG_APPEND_TIME = 1

Headers = Sequence[tuple[str, bytes | None]]


class _Sent(NamedTuple):
    where: TopicPartition
    batch: BatchBuilder
    acknowledged: asyncio.Future[RecordMetadata]


@dataclass(slots=True)
class _Outbox:
    """What a producer has yet to send, in order: partitions of its transaction, then batches."""

    places: set[TopicPartition] = field(default_factory=set)
    batches: list[_Sent] = field(default_factory=list)


class MemoryProducer:
    """An idempotent producer. What is sent is appended a turn of the loop later, in order.

    `codec` is how it compresses: Kafka's number of it, 0: not at all.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        *,
        transactional_id: str | None = None,
        codec: int = _UNCOMPRESSED,
    ) -> None:
        self._codec = codec
        self._broker = broker
        self._transactional_id = transactional_id
        self._identity: Identity | None = None
        self._partitioner = DefaultPartitioner()
        self._outbox = _Outbox()
        self._sending: asyncio.Task[None] | None = None
        self._failed: Exception | None = None
        self._is_stopped = False

    async def start(self) -> None:
        """Connect. Raises `KafkaConnectionError`."""
        self._identity = await self._broker.init_producer(self._transactional_id)

    async def stop(self) -> None:
        """Send what was handed over; an open transaction is left open."""
        if self._is_stopped:
            return
        self._is_stopped = True
        await self._flush()

    async def send(  # noqa: PLR0917  aiokafka's
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
    ) -> asyncio.Future[RecordMetadata]:
        """Hand a record over; gives a future that is done once it is acknowledged.

        Raises `MessageSizeTooLargeError` for what no request can hold.
        """
        assert not (value is None and key is None)  # noqa: S101  as aiokafka does
        batch = BatchBuilder(REQUEST_BYTES_MAX, self._codec)
        batch.append(timestamp=timestamp_ms, key=key, value=value, headers=headers or [])
        if (size := batch.size()) > REQUEST_BYTES_MAX:
            raise MessageSizeTooLargeError(f"the record has {size} bytes")
        if partition is None:
            partitions = list(range(self._broker.partition_count(topic)))
            partition = self._partitioner(key, partitions, partitions)
        return await self.send_batch(batch, topic, partition=partition)

    async def send_and_wait(  # noqa: PLR0917  aiokafka's
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
    ) -> RecordMetadata:
        """Send a record; return once it is acknowledged."""
        return await (await self.send(topic, value, key, partition, timestamp_ms, headers))

    def create_batch(self) -> BatchBuilder:
        """Make an empty batch."""
        return BatchBuilder(BATCH_BYTES, self._codec)

    async def send_batch(
        self, batch: BatchBuilder, topic: str, *, partition: int
    ) -> asyncio.Future[RecordMetadata]:
        """Hand a batch over; gives a future that is done once it is acknowledged."""
        assert 0 <= partition < self._broker.partition_count(topic), "Unrecognized partition"  # noqa: S101
        if self._is_stopped:
            raise ProducerClosed
        if self._failed is not None:
            raise self._failed
        where = TopicPartition(topic, partition)
        sent = _Sent(where, batch, asyncio.get_running_loop().create_future())
        self._outbox.batches.append(sent)
        self._send_soon()
        return sent.acknowledged

    @property
    def _who(self) -> Identity:
        if self._identity is None:
            message = "the producer is not started"
            raise RuntimeError(message)
        return self._identity

    def _send_soon(self) -> None:
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())

    async def _flush(self) -> None:
        while self._sending is not None and not self._sending.done():
            await asyncio.shield(self._sending)

    async def _send_all(self) -> None:
        while self._outbox.places or self._outbox.batches:
            await self._broker.answer()
            outbox, self._outbox = self._outbox, _Outbox()
            try:
                if self._transactional_id is not None:
                    self._broker.add_partitions(self._who, outbox.places)
            except KafkaError as error:
                self._fail(error, outbox.batches)
                return
            for sent in outbox.batches:
                self._send(sent)

    def _send(self, sent: _Sent) -> None:
        where = sent.where
        try:
            base, at_ms = self._broker.produce(self._who, where, bytes(sent.batch._build()))  # noqa: SLF001
        except MessageSizeTooLargeError as error:
            _refuse(sent, error)
            return
        except OutOfOrderSequenceNumber as error:
            # A plain producer tries on with each batch, in vain, and other partitions are served.
            if self._transactional_id is None:
                _refuse(sent, error)
            else:
                self._fail(error, [sent])
            return
        except KafkaError as error:
            self._fail(error, [sent])
            return
        told = RecordMetadata(
            where.topic, where.partition, where, base, at_ms, _LOG_APPEND_TIME, None
        )

        def tell() -> None:
            if not sent.acknowledged.done():
                sent.acknowledged.set_result(told)

        self._broker.acknowledge(where.topic, tell)

    def _fail(self, error: Exception, batches: Iterable[_Sent]) -> None:
        """Go on no more, as aiokafka's sender does."""
        self._failed = error
        for sent in batches:
            _refuse(sent, error)


def _refuse(sent: _Sent, error: Exception) -> None:
    if not sent.acknowledged.done():  # whoever sent it may have been cancelled
        sent.acknowledged.set_exception(error)


class MemoryTransactionalProducer(MemoryProducer):
    """A producer of transactions, as `millstream.streams.transactions.producers` takes one.

    Starting it fences every earlier one of its id, and aborts what that left open.
    """

    def __init__(self, broker: MemoryBroker, transactional_id: str) -> None:
        super().__init__(broker, transactional_id=transactional_id)
        self._name = transactional_id
        self._places: set[TopicPartition] = set()
        self._is_open = False
        self._ending: asyncio.Task[None] | None = None

    def successor(self) -> MemoryTransactionalProducer:
        """Make another one of the same id, not started."""
        return MemoryTransactionalProducer(self._broker, self._name)

    async def stop(self) -> None:
        """Stop; an open transaction is left open, and a commit without an answer unanswered."""
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.wait({self._ending})
        await super().stop()

    async def begin_transaction(self) -> None:
        """Begin one; nothing is asked of the broker yet."""
        self._check()
        assert not self._is_open  # noqa: S101  as aiokafka does
        self._is_open = True
        self._places = set()

    def expect(self, places: Iterable[TopicPartition]) -> None:
        """Add partitions to the open transaction, without waiting for it."""
        assert self._is_open  # noqa: S101  as aiokafka does
        self._add(places)
        self._send_soon()

    async def send_batch(
        self, batch: BatchBuilder, topic: str, *, partition: int
    ) -> asyncio.Future[RecordMetadata]:
        """Hand a batch of the open transaction over. Raises `IllegalOperation` without one."""
        if not self._is_open:
            message = "Can't send messages while not in transaction"
            raise IllegalOperation(message)
        acknowledged = await super().send_batch(batch, topic, partition=partition)
        self._add([TopicPartition(topic, partition)])
        return acknowledged

    async def commit_transaction(self) -> None:
        """Commit what was sent, but for what was refused."""
        await self._end(is_commit=True)

    async def abort_transaction(self) -> None:
        """Abort what was sent."""
        await self._end(is_commit=False)

    async def look(self) -> None:
        """See whether something of its own hangs: in memory no producer finds out."""

    @property
    def hanging(self) -> Any:
        """What was found to hang."""
        return None

    def _add(self, places: Iterable[TopicPartition]) -> None:
        new = set(places) - self._places
        self._places |= new
        self._outbox.places |= new

    async def _end(self, *, is_commit: bool) -> None:
        self._check()
        assert self._is_open  # noqa: S101  as aiokafka does
        self._is_open = False
        # In a task: it goes on, whoever stops waiting for it.
        self._ending = asyncio.create_task(self._flush_and_end(is_commit=is_commit))
        await asyncio.shield(self._ending)

    async def _flush_and_end(self, *, is_commit: bool) -> None:
        await self._flush()
        self._check()
        if not self._places:
            return  # the broker knows of none
        try:
            await self._broker.end_transaction(self._who, is_commit=is_commit)
        except KafkaError as error:
            self._fail(error, [])
            raise

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed
