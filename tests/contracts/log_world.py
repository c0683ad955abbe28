"""A broker with topics of one's own, whatever it is: where the contracts of its clients run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from aiokafka import TopicPartition

from millstream.streams.broker.partition_reader import PartitionReader, ReadClients
from millstream.streams.broker.renewed_producer import RenewedProducer
from millstream.streams.transactions.producers import TransactionalProducer

T = TypeVar("T")

PRODUCE_BYTES_SMALL = 10_000
"""The largest batch that a topic takes which takes small ones only."""


class LogWorld(Protocol):
    """Topics of one partition are made at will; clients are given out unstarted."""

    short_s: float
    """A time-out that is sure to be over before long, and sure not to be met by what works."""

    timeout_s: float
    """A time-out within which a client starts and commits."""

    async def create(
        self, name: str, *, is_small: bool = False, is_compacted: bool = False, partitions: int = 1
    ) -> TopicPartition:
        """Create a topic whose records get the broker's time; gives its first partition."""

    async def delete_before(self, where: TopicPartition, offset: int) -> None:
        """Delete records, as retention does."""

    def read_clients(self) -> ReadClients:
        """Give what makes consumers."""

    def read_clients_of_nobody(self) -> ReadClients:
        """Give what makes consumers of a broker that does not answer."""

    def reader(self, clients: ReadClients | None = None) -> PartitionReader:
        """Make a reader."""

    def producer(self, transactional_id: str) -> TransactionalProducer:
        """Make a producer of transactions; ids are this world's own."""

    def plain_producer(self) -> Any:
        """Make an idempotent producer."""

    def renewed_producer(self) -> RenewedProducer:
        """Make one that is made anew behind a record that was refused."""


@asynccontextmanager
async def started(client: T) -> AsyncIterator[T]:
    """Start a client, and stop it in the end."""
    some: Any = client
    try:
        await some.start()
        yield client
    finally:
        await some.stop()


async def soon(waiting: Awaitable[T]) -> T:
    """Give what comes, and fail if it does not."""
    return await asyncio.wait_for(waiting, 30)


async def turns(count: int) -> None:
    """Let whatever is ready run, this many times."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turned = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned


async def end_of(reader: PartitionReader, where: TopicPartition) -> int:
    """Give a partition's high watermark."""
    return (await reader.high_watermarks([where]))[where]


async def all_committed(
    world: LogWorld, where: TopicPartition, *, stall_s: float = 20
) -> list[Any]:
    """Read the committed records of a partition up to its high watermark."""
    async with started(world.reader()) as reader:
        stretch = reader.read({where: await end_of(reader, where)}, stall_timeout_s=stall_s)
        return [record async for record in stretch]


async def written(world: LogWorld, where: TopicPartition, *values: bytes | None) -> list[int]:
    """Write records one after the other, all under one key; gives their broker times."""
    async with started(world.plain_producer()) as producer:
        return [
            (
                await producer.send_and_wait(where.topic, value, b"key", partition=where.partition)
            ).timestamp
            for value in values
        ]


async def sent(
    producer: TransactionalProducer, where: TopicPartition, *values: bytes
) -> asyncio.Future[Any]:
    """Hand a batch of records over, in an open transaction; gives the future of its place."""
    batch = producer.create_batch()
    for value in values:
        appended = batch.append(timestamp=None, key=b"key", value=value, headers=[])
        assert appended is not None
    batch.close()
    return await producer.send_batch(batch, where.topic, partition=where.partition)
