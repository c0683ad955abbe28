"""Reading stretches of single partitions: committed records, to an end known before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from millstream.schemas.errors import LaneLost, ServiceUnavailable
from millstream.streams.broker.clients import not_reached_at
from millstream.streams.broker.fetched.eager_fetcher import fetch_up_to
from millstream.streams.broker.read_clients import RECORDS_AT_ONCE, KafkaReadClients, assign_paused
from millstream.streams.broker.reading.merging import Merge, Span, Turn

if TYPE_CHECKING:
    from millstream.streams.settings import Settings

ClientT = TypeVar("ClientT")

_POLL_MS = 200


class Consumer(Protocol):
    """Reads committed records of the partitions that it is assigned. All raise `KafkaError`.

    aiokafka's is one, and has each method's description.
    """

    async def start(self) -> None: ...  # noqa: D102
    async def stop(self) -> None: ...  # noqa: D102
    def assign(self, partitions: Iterable[TopicPartition]) -> None: ...  # noqa: D102
    def seek(self, partition: TopicPartition, offset: int) -> None: ...  # noqa: D102
    def pause(self, *partitions: TopicPartition) -> None: ...  # noqa: D102
    def resume(self, *partitions: TopicPartition) -> None: ...  # noqa: D102
    async def position(self, partition: TopicPartition) -> int: ...  # noqa: D102
    async def beginning_offsets(  # noqa: D102
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]: ...
    async def end_offsets(  # noqa: D102
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]: ...
    async def offsets_for_times(  # noqa: D102
        self, times_ms: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, Any]: ...
    async def getmany(  # noqa: D102
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> Mapping[TopicPartition, Sequence[Any]]: ...
    def __aiter__(self) -> AsyncIterator[Any]: ...  # noqa: D105


class PartitionEnds(Protocol):
    """Asks where partitions end. All raise `KafkaError`."""

    async def start(self) -> None:
        """Connect."""

    async def stop(self) -> None:
        """Disconnect."""

    async def high_watermarks(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the offsets behind the last records."""

    async def log_start_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the oldest offsets that are not removed."""

    async def stable_ends(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the last stable offsets: where the first open transaction begins, else the end."""


class ReadClients(Protocol):
    """Makes the clients that a reader needs, not started."""

    @property
    def address(self) -> str:
        """Where the broker is, for messages."""

    def consumer(self) -> Consumer:
        """Make a consumer without a group."""

    def ends(self) -> PartitionEnds:
        """Make what asks for ends."""


class PartitionReader:
    """Reads partitions by hand, one stretch at a time. Not for concurrent use without `lock`."""

    def __init__(self, settings: Settings, clients: ReadClients | None = None) -> None:
        self._clients: ReadClients = clients or KafkaReadClients(settings)
        self._consumer: Consumer | None = None
        # A read_committed consumer is told of an end that lies before every open transaction: what
        # was committed behind one would be missed, and nobody would know.
        self._ends: PartitionEnds | None = None
        self.lock = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Raises `ServiceUnavailable` if Kafka does not answer."""
        self._consumer = self._clients.consumer()
        self._ends = self._clients.ends()
        try:
            await self._consumer.start()
            await self._ends.start()
        except KafkaError as error:
            raise self._unavailable(error) from error

    async def stop(self) -> None:
        """Disconnect."""
        for client in (self._consumer, self._ends):
            if client is not None:
                await client.stop()

    async def high_watermarks(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give each partition's high watermark: the offset after its last record.

        Raises `ServiceUnavailable` if Kafka does not answer.
        """
        try:
            return await _started(self._ends).high_watermarks(tuple(partitions))
        except KafkaError as error:
            raise self._unavailable(error) from error

    async def log_start_offsets(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give each partition's log start offset: all before it was removed.

        By retention or on request; what compaction removes leaves it where it is. Raises
        `ServiceUnavailable` if Kafka does not answer.
        """
        try:
            return await _started(self._ends).log_start_offsets(tuple(partitions))
        except KafkaError as error:
            raise self._unavailable(error) from error

    async def stable_high_watermarks(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the ends of partitions, once no transaction is open before them.

        Raises as `read` does.
        """
        ends = await self.high_watermarks(partitions)
        try:
            stable = await _started(self._ends).stable_ends(ends)
        except KafkaError as error:
            raise self._unavailable(error) from error
        for one, end in ends.items():
            if stable[one] < end:
                async for _ in self.read({one: end}, from_offset=stable[one]):
                    pass
        return ends

    def _unavailable(self, error: KafkaError) -> ServiceUnavailable:
        return not_reached_at(self._clients.address, error)

    async def read(
        self,
        ends: Mapping[TopicPartition, int],
        *,
        since_ms: int | None = None,
        from_offset: int | None = None,
        stall_timeout_s: float = 60.0,
    ) -> AsyncGenerator[Any, None]:
        """Yield each committed record before the partition's end in `ends`, as `ends` gave it.

        Starts at the first record not older than `since_ms` (or where a transaction is open that
        may hold it), at `from_offset`, or at the beginning. An end is a high watermark, so a
        transaction open before it is waited for: committed records behind it are not missed. Raises
        `LaneLost` if it stays open longer than `stall_timeout_s`, and `ServiceUnavailable` if Kafka
        does not answer.
        """
        try:
            async for record in self._read(ends, since_ms, from_offset, stall_timeout_s):
                yield record
        except KafkaError as error:
            raise self._unavailable(error) from error

    async def read_in_order(
        self,
        spans: Sequence[Span],
        *,
        lead_ms: int = 0,
        turn: Turn | None = None,
        stall_timeout_s: float = 60.0,
    ) -> AsyncGenerator[list[Any], None]:
        """Yield the committed records of several partitions as one, in batches: see `merging`.

        Reads as `read` does, and raises as that.
        """
        try:
            async for batch in self._merged(spans, lead_ms, turn, stall_timeout_s):
                yield batch
        except KafkaError as error:
            raise self._unavailable(error) from error

    async def _merged(
        self, spans: Sequence[Span], lead_ms: int, turn: Turn | None, stall_timeout_s: float
    ) -> AsyncGenerator[list[Any], None]:
        consumer = _started(self._consumer)
        fetch_up_to(consumer, {one.where: one.end for one in spans})
        assign_paused(consumer, [one.where for one in spans])
        starts = await self._begins(consumer, spans)
        for one in spans:
            consumer.seek(one.where, min(starts[one.where], one.end))
        left = [one for one in spans if starts[one.where] < one.end]
        consumer.resume(*(one.where for one in left))
        merge = Merge(consumer, left, lead_ms=lead_ms, turn=turn, stall_timeout_s=stall_timeout_s)
        try:
            async for batch in merge.batches():
                yield batch
        except TimeoutError:
            raise _held_back(merge.behind, stall_timeout_s) from None

    async def _begins(self, consumer: Consumer, spans: Sequence[Span]) -> dict[TopicPartition, int]:
        """Give where each span begins, with as few questions as can be."""
        if not spans:
            return {}
        beginnings = await consumer.beginning_offsets([one.where for one in spans])
        starts = {one.where: max(one.from_offset or 0, beginnings[one.where]) for one in spans}
        by_time = {one.where: one.since_ms for one in spans if one.since_ms is not None}
        if by_time:
            starts |= await self._starts_by_time(consumer, by_time)
        return starts

    async def _read(
        self,
        ends: Mapping[TopicPartition, int],
        since_ms: int | None,
        from_offset: int | None,
        stall_timeout_s: float,
    ) -> AsyncGenerator[Any, None]:
        consumer = _started(self._consumer)
        wanted = tuple(ends)
        fetch_up_to(consumer, ends)
        assign_paused(consumer, wanted)
        starts = await self._starts(consumer, ends, since_ms, from_offset)
        pending = {one for one in wanted if starts[one] < ends[one]}
        for partition in wanted:
            consumer.seek(partition, min(starts[partition], ends[partition]))
        consumer.resume(*pending)
        deadline = asyncio.get_running_loop().time() + stall_timeout_s
        # What lies behind the ends would be parsed for nothing.
        records_max = min(RECORDS_AT_ONCE, sum(ends[one] - starts[one] for one in pending))
        while pending:
            fetched = await consumer.getmany(*pending, timeout_ms=_POLL_MS, max_records=records_max)
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
                raise _held_back(pending, stall_timeout_s)

    @staticmethod
    async def _starts(
        consumer: Consumer,
        ends: Mapping[TopicPartition, int],
        since_ms: int | None,
        from_offset: int | None,
    ) -> dict[TopicPartition, int]:
        beginnings: dict[TopicPartition, int] = await consumer.beginning_offsets(list(ends))
        if from_offset is not None:
            return {one: max(from_offset, beginnings[one]) for one in ends}
        if since_ms is None:
            return beginnings
        return await PartitionReader._starts_by_time(consumer, dict.fromkeys(ends, since_ms))

    @staticmethod
    async def _starts_by_time(
        consumer: Consumer, since_ms: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        # What is open is not found by its time. Where it begins is asked first, or what is
        # committed between the two questions would be missed.
        stable = await consumer.end_offsets(list(since_ms))
        found = await consumer.offsets_for_times(since_ms)
        return {
            one: stable[one] if found.get(one) is None else found[one].offset for one in since_ms
        }


def _held_back(where: Iterable[TopicPartition], stall_timeout_s: float) -> LaneLost:
    held = ", ".join(f"{one.topic}-{one.partition}" for one in where)
    return LaneLost(
        f"{held}: an open transaction held back the end for {stall_timeout_s:.0f} s; "
        "if it does so again, a broker left it hanging and it was not ended here (the "
        "log says why): `kafka-transactions.sh find-hanging` shows it, and `abort` "
        "ends it, which loses it if it was committed"
    )


def _started(client: ClientT | None) -> ClientT:
    if client is None:
        message = "the reader is not started"
        raise RuntimeError(message)
    return client
