"""Reading stretches of single partitions: committed records, to an end known before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from millstream.schemas.errors import LaneLost, ServiceUnavailable
from millstream.streams.broker.clients import committed_consumer, ends_consumer
from millstream.streams.broker.raw_broker import RawBroker

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

_POLL_MS = 200
_BATCH_MAX = 1000


class PartitionReader:
    """Reads partitions by hand, one stretch at a time. Not for concurrent use without `lock`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None
        # A read_committed consumer is told of an end that lies before every open transaction: what
        # was committed behind one would be missed, and nobody would know.
        self._ends_of: AIOKafkaConsumer | None = None
        self.lock = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Raises `ServiceUnavailable` if Kafka does not answer."""
        self._consumer = committed_consumer(self._settings)
        self._ends_of = ends_consumer(self._settings)
        try:
            await self._consumer.start()
            await self._ends_of.start()
        except KafkaError as error:
            raise self._unavailable(error) from error

    async def stop(self) -> None:
        """Disconnect."""
        for consumer in (self._consumer, self._ends_of):
            if consumer is not None:
                await consumer.stop()

    async def high_watermarks(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give each partition's high watermark: the offset after its last record.

        Raises `ServiceUnavailable` if Kafka does not answer.
        """
        try:
            consumer = _started(self._ends_of)
            wanted = tuple(partitions)
            # Then it learns of all their topics at once, not of one after the other.
            _assign_paused(consumer, wanted)
            ends: dict[TopicPartition, int] = await consumer.end_offsets(wanted)
        except KafkaError as error:
            raise self._unavailable(error) from error
        return ends

    async def log_start_offsets(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give each partition's log start offset: all before it was removed.

        By retention or on request; what compaction removes leaves it where it is. Raises
        `ServiceUnavailable` if Kafka does not answer.
        """
        try:
            consumer = _started(self._ends_of)
            wanted = tuple(partitions)
            _assign_paused(consumer, wanted)
            starts: dict[TopicPartition, int] = await consumer.beginning_offsets(wanted)
        except KafkaError as error:
            raise self._unavailable(error) from error
        return starts

    async def stable_high_watermarks(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the ends of partitions, once no transaction is open before them.

        Raises as `read` does.
        """
        ends = await self.high_watermarks(partitions)
        # Asked by the client that has just learned who leads them: the other one would wait for it.
        raw = RawBroker(_started(self._ends_of)._client)  # noqa: SLF001  it has no public way
        try:
            stable = await raw.stable_ends(ends)
        except KafkaError as error:
            raise self._unavailable(error) from error
        for one, end in ends.items():
            if stable[one] < end:
                async for _ in self.read({one: end}, from_offset=stable[one]):
                    pass
        return ends

    def _unavailable(self, error: KafkaError) -> ServiceUnavailable:
        return ServiceUnavailable(f"Kafka does not answer at {self._settings.kafka}: {error!r}")

    async def read(
        self,
        ends: Mapping[TopicPartition, int],
        *,
        since_ms: int | None = None,
        from_offset: int | None = None,
        stall_timeout_s: float = 60.0,
    ) -> AsyncGenerator[Any, None]:
        """Yield each committed record before the partition's end in `ends`, as `ends` gave it.

        Starts at the first record not older than `since_ms`, at `from_offset`, or at the
        beginning. An end is a high watermark, so a transaction open before it is waited for:
        committed records behind it are not missed. Raises `LaneLost` if it stays open longer than
        `stall_timeout_s`, and `ServiceUnavailable` if Kafka does not answer.
        """
        try:
            async for record in self._read(ends, since_ms, from_offset, stall_timeout_s):
                yield record
        except KafkaError as error:
            raise self._unavailable(error) from error

    async def _read(
        self,
        ends: Mapping[TopicPartition, int],
        since_ms: int | None,
        from_offset: int | None,
        stall_timeout_s: float,
    ) -> AsyncGenerator[Any, None]:
        consumer = _started(self._consumer)
        wanted = tuple(ends)
        _assign_paused(consumer, wanted)
        starts = await self._starts(consumer, ends, since_ms, from_offset)
        pending = {one for one in wanted if starts[one] < ends[one]}
        for partition in wanted:
            consumer.seek(partition, min(starts[partition], ends[partition]))
        consumer.resume(*pending)
        deadline = asyncio.get_running_loop().time() + stall_timeout_s
        while pending:
            fetched = await consumer.getmany(*pending, timeout_ms=_POLL_MS, max_records=_BATCH_MAX)
            for partition, records in fetched.items():
                for record in records:
                    if record.offset < ends[partition]:
                        yield record
            if fetched:
                deadline = asyncio.get_running_loop().time() + stall_timeout_s
            for partition in tuple(pending):
                if await consumer.position(partition) >= ends[partition]:
                    pending.discard(partition)
                    consumer.pause(partition)
            if pending and asyncio.get_running_loop().time() > deadline:
                held = ", ".join(f"{one.topic}-{one.partition}" for one in pending)
                raise LaneLost(
                    f"{held}: an open transaction held back the end for {stall_timeout_s:.0f} s; "
                    "if it does so again, a broker left it hanging and it was not ended here (the "
                    "log says why): `kafka-transactions.sh find-hanging` shows it, and `abort` "
                    "ends it, which loses it if it was committed"
                )

    @staticmethod
    async def _starts(
        consumer: AIOKafkaConsumer,
        ends: Mapping[TopicPartition, int],
        since_ms: int | None,
        from_offset: int | None,
    ) -> dict[TopicPartition, int]:
        beginnings: dict[TopicPartition, int] = await consumer.beginning_offsets(list(ends))
        if from_offset is not None:
            return {one: max(from_offset, beginnings[one]) for one in ends}
        if since_ms is None:
            return beginnings
        found = await consumer.offsets_for_times(dict.fromkeys(ends, since_ms))
        return {
            one: end if found.get(one) is None else found[one].offset for one, end in ends.items()
        }


def _assign_paused(consumer: AIOKafkaConsumer, partitions: tuple[TopicPartition, ...]) -> None:
    """Assign without an await between: nothing is fetched yet.

    Else it would be, from the beginning, and a fetch that finds nothing holds up all that is asked
    behind it for as long as it may wait for records.
    """
    consumer.assign(partitions)
    consumer.pause(*partitions)


def _started(consumer: AIOKafkaConsumer | None) -> AIOKafkaConsumer:
    if consumer is None:
        message = "the reader is not started"
        raise RuntimeError(message)
    return consumer
