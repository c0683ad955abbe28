"""Reads a log of records by a consumer, Kafka's or one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from millstream.schemas.errors import ServiceUnavailable
from millstream.streams.broker.fetched.eager_fetcher import fetch_up_to
from millstream.streams.broker.partition_reader import Consumer, ReadClients
from millstream.streams.bus.api import Beginning, FromOffset, FromTime, Now, Start
from millstream.streams.bus.record_log import NO_ENDS, Positions
from millstream.streams.wire.records import LogRecord

__all__ = ["ConsumerReader", "away"]


class ConsumerReader:
    """A consumer without a group that sees committed records only."""

    def __init__(self, clients: ReadClients) -> None:
        self._clients = clients
        self._client: Consumer | None = None

    @property
    def _consumer(self) -> Consumer:
        if self._client is None:
            message = "the reader is not started"
            raise RuntimeError(message)
        return self._client

    async def start(self) -> None:
        """Connect."""
        self._client = self._clients.consumer()
        try:
            await self._client.start()
        except KafkaError as error:
            raise away(self._clients.address, error) from error

    async def stop(self) -> None:
        """Disconnect."""
        if self._client is not None:
            await self._client.stop()

    async def offsets(self, partitions: Collection[TopicPartition], start: Start) -> Positions:
        """Give where `start` is; an end is the last stable offset: what is committed."""
        by_topic: dict[str, list[TopicPartition]] = {}
        for one in partitions:
            by_topic.setdefault(one.topic, []).append(one)
        # Topic by topic, at once: aiokafka learns of one unknown topic per call, in 100 ms.
        try:
            found = await asyncio.gather(
                *(self._offsets_of_topic(asked, start) for asked in by_topic.values())
            )
        except KafkaError as error:
            raise away(self._clients.address, error) from error
        return {one: offset for offsets in found for one, offset in offsets.items()}

    async def _offsets_of_topic(
        self, partitions: Collection[TopicPartition], start: Start
    ) -> Positions:
        consumer = self._consumer
        match start:
            case Now():
                return dict(await consumer.end_offsets(partitions))
            case Beginning():
                return dict(await consumer.beginning_offsets(partitions))
            case FromOffset(offset=offset):
                ends = await consumer.end_offsets(partitions)
                oldest = await consumer.beginning_offsets(partitions)
                return {one: max(oldest[one], min(offset, ends[one])) for one in partitions}
            case FromTime(at_ms=at_ms):
                # The ends first: what comes between the two calls is then not passed over.
                ends = await consumer.end_offsets(partitions)
                found = await consumer.offsets_for_times(dict.fromkeys(partitions, at_ms))
                return {
                    one: ends[one] if (at := found.get(one)) is None else at.offset
                    for one in partitions
                }

    def assign(self, positions: Positions, ends: Positions = NO_ENDS) -> None:
        """Read these partitions; aiokafka drops what it had fetched ahead."""
        fetch_up_to(self._consumer, ends)
        self._consumer.assign(list(positions))
        for partition, offset in positions.items():
            self._consumer.seek(partition, offset)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read on from another offset."""
        self._consumer.seek(partition, offset)

    def pause(self, partition: TopicPartition) -> None:
        """Leave a partition be."""
        self._consumer.pause(partition)

    def resume(self, partition: TopicPartition) -> None:
        """Read a paused partition on."""
        self._consumer.resume(partition)

    async def position(self, partition: TopicPartition) -> int:
        """Give the offset that would be read next."""
        return await self._consumer.position(partition)

    async def read(
        self, partitions: Collection[TopicPartition] = (), *, records_max: int, wait_s: float
    ) -> Mapping[TopicPartition, Sequence[LogRecord]]:
        """Give what has come. Does not suspend between taking the records and returning them."""
        try:
            return await self._consumer.getmany(
                *partitions, timeout_ms=int(wait_s * 1000), max_records=records_max
            )
        except KafkaError as error:
            raise away(self._clients.address, error) from error


def away(address: str, error: BaseException) -> ServiceUnavailable:
    """Say that a broker does not answer."""
    return ServiceUnavailable(f"Kafka at {address} does not answer: {error!r}")
