"""Kafka as a record log, by aiokafka."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from aiokafka import TopicPartition
from aiokafka.errors import ClusterAuthorizationFailedError, KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata

from millstream.schemas.base import Address
from millstream.schemas.errors import InputTooLarge
from millstream.streams.broker.batches import Outgoing
from millstream.streams.broker.clients import idempotent_producer
from millstream.streams.broker.failed_sends import REFUSED_AS_TOO_LARGE
from millstream.streams.broker.read_clients import KafkaReadClients
from millstream.streams.broker.renewed_producer import RenewedProducer
from millstream.streams.broker.topic_admin import partition_counts
from millstream.streams.bus.api import BusHooks
from millstream.streams.bus.consumer_reader import ConsumerReader, away
from millstream.streams.bus.log_bus import LogBus
from millstream.streams.settings import Settings

__all__ = ["KafkaBus", "KafkaLog"]

# An idempotent producer never gives a batch up by itself: somebody must stop waiting.
_ACKNOWLEDGED_TIMEOUT_S = 60.0
_ENCODED_WITHOUT_PAUSE_MAX = 256
# One batch per partition is under way at a time: with aiokafka's 16 KiB, round trips are the limit.
_BATCH_BYTES = 131_072
_UNCOMPRESSED = 0
_A_TOPIC = "one of these events' topics"


class KafkaLog:
    """Appends through one idempotent producer.

    Brokers give no such producer to a user who may write to no topic (KIP-679), as a product or an
    auditor. What only reads does without, and each append asks for one anew.
    """

    def __init__(self, settings: Settings) -> None:
        self.address = settings.kafka
        self._settings = settings
        self._is_started = False
        self._client: RenewedProducer | None = None
        self._connecting = asyncio.Lock()

    async def _producer(self) -> RenewedProducer:
        if not self._is_started:
            message = "the log is not started"
            raise RuntimeError(message)
        async with self._connecting:
            if self._client is None:
                self._client = await self._connected()
        return self._client

    async def start(self) -> None:
        """Connect the producer, if this user may have one."""
        with suppress(ClusterAuthorizationFailedError):
            self._client = await self._connected()
        self._is_started = True

    async def _connected(self) -> RenewedProducer:
        client = RenewedProducer(partial(idempotent_producer, self._settings))
        try:
            await client.start()
        except BaseException as error:
            await client.stop()
            if isinstance(error, KafkaError) and not isinstance(
                error, ClusterAuthorizationFailedError
            ):
                raise away(self.address, error) from error
            raise
        return client

    async def stop(self) -> None:
        """Send out what is under way, disconnect."""
        self._is_started = False
        if self._client is not None:
            await self._client.stop()

    def reader(self) -> ConsumerReader:
        """Make a reader, not started."""
        return ConsumerReader(KafkaReadClients(self._settings))

    async def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        """Ask the broker."""
        return await partition_counts(self._settings, topics)

    async def append(self, record: Outgoing) -> Address:
        """Append a record, acknowledged by all in-sync replicas."""
        topic, partition = record.topic, record.partition
        encoded = record.encoded
        try:
            async with asyncio.timeout(_ACKNOWLEDGED_TIMEOUT_S):
                sent = await (await self._producer()).send_and_wait(
                    topic, encoded.value, encoded.key, partition, None, encoded.headers
                )
        except REFUSED_AS_TOO_LARGE as error:
            raise _refused(topic, error) from error
        except (KafkaError, TimeoutError) as error:
            raise away(self.address, error) from error
        return Address(topic=topic, partition=partition, offset=sent.offset)

    async def append_all(self, records: Iterable[Outgoing]) -> list[Address]:
        """Append records in batches that are filled here: one future for each, not per record.

        All are filled before the first is sent, so an error in `records` writes nothing.
        """
        lanes = await self._filled(records)
        if not lanes:
            return []
        addresses: dict[int, Address] = {}
        try:
            async with asyncio.timeout(_ACKNOWLEDGED_TIMEOUT_S), asyncio.TaskGroup() as group:
                producer = await self._producer()
                for target, lane in lanes.items():
                    group.create_task(_append_lane(producer, target, lane, addresses))
        except ExceptionGroup as errors:
            refused, others = errors.split(REFUSED_AS_TOO_LARGE)
            if refused is not None:
                raise _refused(_A_TOPIC, refused.exceptions[0]) from errors
            if others is not None and others.subgroup(KafkaError) is not None:
                raise away(self.address, others.exceptions[0]) from errors
            raise
        except (KafkaError, TimeoutError) as error:
            raise away(self.address, error) from error
        return [addresses[index] for index in range(len(addresses))]

    async def _filled(self, records: Iterable[Outgoing]) -> dict[TopicPartition, _Lane]:
        lanes: dict[TopicPartition, _Lane] = {}
        for index, record in enumerate(records):
            target = TopicPartition(record.topic, record.partition)
            lane = lanes.get(target)
            if lane is None:
                lane = lanes[target] = _Lane([_batch()], [])
            encoded = record.encoded
            key, value, headers = encoded.key, encoded.value, encoded.headers
            if (
                lane.batches[-1].append(timestamp=None, key=key, value=value, headers=headers)
                is None
            ):
                # An empty batch takes a record of any size.
                batch = _batch()
                batch.append(timestamp=None, key=key, value=value, headers=headers)
                lane.batches.append(batch)
            lane.indexes.append(index)
            if index % _ENCODED_WITHOUT_PAUSE_MAX == 0:
                await asyncio.sleep(0)
        return lanes


async def _append_lane(
    producer: RenewedProducer, target: TopicPartition, lane: _Lane, addresses: dict[int, Address]
) -> None:
    """Append to one partition, in order; note where each record stands."""
    topic, partition = target
    sent: list[tuple[asyncio.Future[RecordMetadata], int]] = []
    for batch in lane.batches:
        # Closed, or a `publish` at the same time would slip its record into the batch.
        batch.close()
        future = await producer.send_batch(batch, topic, partition=partition)
        sent.append((future, batch.record_count()))
    indexes = iter(lane.indexes)
    for future, count in sent:
        base = (await future).offset
        for offset in range(base, base + count):
            addresses[next(indexes)] = Address(topic=topic, partition=partition, offset=offset)


def _refused(topic: str, error: Exception) -> InputTooLarge:
    return InputTooLarge(
        f"{topic} takes no record as large as this one: {error}; shorten it, or raise the topic's "
        "`max.message.bytes`, if `millstream doctor` says that it is lower than it should be"
    )


@dataclass(frozen=True, slots=True)
class _Lane:
    """What goes to one partition: filled batches, and which of the records they hold, in order."""

    batches: list[BatchBuilder]
    indexes: list[int]


def _batch() -> BatchBuilder:
    """Make what `create_batch` makes, but larger than the producer's batches of single sends."""
    return BatchBuilder(_BATCH_BYTES, _UNCOMPRESSED)


class KafkaBus(LogBus):
    """One idempotent producer and one consumer, however many subscriptions there are.

    Create the topics first (`streams.broker.topic_admin.ensure_topics`): the bus creates none.
    """

    def __init__(self, settings: Settings, hooks: BusHooks | None = None) -> None:
        super().__init__(settings, KafkaLog(settings), hooks or BusHooks())
