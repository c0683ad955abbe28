"""Kafka as a record log, by aiokafka."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.base import Address
from schemas.errors import ServiceUnavailable
from streams.bus import Beginning, FromOffset, FromTime, Now, Start
from streams.clients import committed_consumer, idempotent_producer
from streams.codec import Encoded
from streams.record_log import LogRecord, Outgoing, Positions
from streams.settings import Settings
from streams.topic_admin import partition_counts

__all__ = ["KafkaLog", "KafkaReader"]

# An idempotent producer never gives a batch up by itself: somebody must stop waiting.
_ACKNOWLEDGED_TIMEOUT_S = 60.0


class KafkaReader:
    """A consumer without a group that sees committed records only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: AIOKafkaConsumer | None = None

    @property
    def _consumer(self) -> AIOKafkaConsumer:
        if self._client is None:
            message = "the reader is not started"
            raise RuntimeError(message)
        return self._client

    async def start(self) -> None:
        """Connect."""
        self._client = committed_consumer(self._settings)
        try:
            await self._client.start()
        except KafkaError as error:
            raise _away(self._settings, error) from error

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
            raise _away(self._settings, error) from error
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

    def assign(self, positions: Positions) -> None:
        """Read these partitions; aiokafka drops what it had fetched ahead."""
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
        return int(await self._consumer.position(partition))

    async def read(
        self, partitions: Collection[TopicPartition] = (), *, records_max: int, wait_s: float
    ) -> Mapping[TopicPartition, Sequence[LogRecord]]:
        """Give what has come. Does not suspend between taking the records and returning them."""
        try:
            batches: dict[TopicPartition, list[LogRecord]] = await self._consumer.getmany(
                *partitions, timeout_ms=int(wait_s * 1000), max_records=records_max
            )
        except KafkaError as error:
            raise _away(self._settings, error) from error
        return batches


class KafkaLog:
    """Appends through one idempotent producer."""

    def __init__(self, settings: Settings) -> None:
        self.address = settings.kafka
        self._settings = settings
        self._client: AIOKafkaProducer | None = None

    @property
    def _producer(self) -> AIOKafkaProducer:
        if self._client is None:
            message = "the log is not started"
            raise RuntimeError(message)
        return self._client

    async def start(self) -> None:
        """Connect the producer."""
        self._client = idempotent_producer(self._settings)
        try:
            await self._client.start()
        except BaseException as error:
            await self._client.stop()
            if isinstance(error, KafkaError):
                raise _away(self._settings, error) from error
            raise

    async def stop(self) -> None:
        """Send out what is under way, disconnect."""
        if self._client is not None:
            await self._client.stop()

    def reader(self) -> KafkaReader:
        """Make a reader, not started."""
        return KafkaReader(self._settings)

    async def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        """Ask the broker."""
        return await partition_counts(self._settings, topics)

    async def append(self, record: Outgoing) -> Address:
        """Append a record, acknowledged by all in-sync replicas."""
        topic, partition = record.target
        encoded = record.encoded
        try:
            async with asyncio.timeout(_ACKNOWLEDGED_TIMEOUT_S):
                sent = await self._producer.send_and_wait(
                    topic, encoded.value, encoded.key, partition, None, encoded.headers
                )
        except (KafkaError, TimeoutError) as error:
            raise _away(self._settings, error) from error
        return Address.model_construct(topic=topic, partition=partition, offset=sent.offset)

    async def append_all(self, records: Sequence[Outgoing]) -> list[Address]:
        """Append records in batches that are filled here: one future for each, not per record."""
        lanes: dict[TopicPartition, list[int]] = {}
        for index, record in enumerate(records):
            lanes.setdefault(record.target, []).append(index)
        addresses: list[Address | None] = [None] * len(records)

        async def fill(target: TopicPartition, indexes: list[int]) -> None:
            offsets = await self._append_lane(target, (records[at].encoded for at in indexes))
            for at, offset in zip(indexes, offsets, strict=True):
                addresses[at] = Address.model_construct(
                    topic=target.topic, partition=target.partition, offset=offset
                )

        try:
            async with asyncio.timeout(_ACKNOWLEDGED_TIMEOUT_S), asyncio.TaskGroup() as group:
                for target, indexes in lanes.items():
                    group.create_task(fill(target, indexes))
        except* (KafkaError, TimeoutError) as errors:
            raise _away(self._settings, errors.exceptions[0]) from errors
        return [address for address in addresses if address is not None]

    async def _append_lane(self, target: TopicPartition, records: Iterable[Encoded]) -> list[int]:
        """Append to one partition, in order; give the offsets."""
        producer = self._producer
        topic, partition = target
        sent: list[tuple[asyncio.Future[object], int]] = []
        batch = producer.create_batch()

        async def send() -> None:
            # Closed, or a `publish` at the same time would slip its record into the batch.
            batch.close()
            future = await producer.send_batch(batch, topic, partition=partition)
            sent.append((future, batch.record_count()))

        for encoded in records:
            while (
                batch.append(
                    timestamp=None, key=encoded.key, value=encoded.value, headers=encoded.headers
                )
                is None
            ):
                await send()
                batch = producer.create_batch()
        await send()
        return [
            offset
            for future, count in sent
            for offset in _offsets((await future).offset, count)  # type: ignore[attr-defined]
        ]


def _offsets(base: int, count: int) -> range:
    return range(base, base + count)


def _away(settings: Settings, error: BaseException) -> ServiceUnavailable:
    return ServiceUnavailable(f"Kafka at {settings.kafka} does not answer: {error!r}")
