"""A broker in memory. Several clients may share one, as processes share a Kafka.

Beside what Kafka's clients ask of it, a test may make it do what real ones do seldom: be away,
answer late, refuse a batch, lose the answer to a commit, leave a transaction without its markers,
compact, delete.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from aiokafka import TopicPartition
from aiokafka.errors import (
    KafkaConnectionError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
)
from aiokafka.record.memory_records import MemoryRecords

from millstream.schemas.base import Address
from millstream.schemas.errors import NoSuchTopic
from millstream.schemas.ports import ClockMs, wall_clock_ms
from millstream.schemas.topics import TopicSpec
from millstream.streams.broker.memory.coordinator import Identity, TransactionCoordinator
from millstream.streams.broker.memory.partition import MemoryPartition, StoredRecord
from millstream.streams.settings import Settings

__all__ = ["MemoryBroker"]

_BATCH_BYTES_MAX = 1_048_588
"""The default of `message.max.bytes`, which counts a whole batch."""

_MARKERS_AFTER_S = 0.001


@dataclass(slots=True)
class _LostAnswer:
    """A commit whose outcome its producer will not hear of; whether it was done."""

    is_applied: bool


class MemoryBroker:
    """Topics and transactions in memory. `clock_ms` stamps every record (`LogAppendTime`).

    `latency_s` is how long each answer takes.
    """

    def __init__(
        self, settings: Settings, clock: ClockMs = wall_clock_ms, *, latency_s: float = 0.0
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._partitions: dict[TopicPartition, MemoryPartition] = {}
        self._bytes_max: dict[str, int] = {}
        self._coordinator = TransactionCoordinator(self._mark)
        self._watchers: set[Callable[[], None]] = set()
        self._reachable = asyncio.Event()
        self._reachable.set()
        # After a batch that was refused, a producer's next one on the partition is out of order.
        self._gaps: set[tuple[Identity, TopicPartition]] = set()
        self._lost_answers: list[_LostAnswer] = []
        self._unmarked: Counter[TopicPartition] = Counter()
        self._withheld: list[tuple[TopicPartition, int, bool]] = []
        self._due: list[tuple[TopicPartition, int, bool]] = []
        self._refused: dict[str, Callable[[], bool]] = {}
        self._unacknowledged: dict[str, list[Callable[[], None]]] = {}
        self.latency_s = latency_s

    # Topics

    def create_topics(self, specs: Sequence[TopicSpec], *, partitions: int | None = None) -> None:
        """Create topics that do not exist yet, with as many `partitions` as the settings say."""
        count = self._settings.partitions if partitions is None else partitions
        for spec in specs:
            configs = spec.configs()
            bytes_max = int(configs.get("max.message.bytes", _BATCH_BYTES_MAX))
            name = self._settings.topic(spec.name)
            self.create_topic(name, count, batch_bytes_max=bytes_max)

    def create_topic(
        self, name: str, partitions: int = 1, *, batch_bytes_max: int = _BATCH_BYTES_MAX
    ) -> None:
        """Create a topic by its physical name, unless it exists."""
        self._bytes_max.setdefault(name, batch_bytes_max)
        for number in range(partitions):
            where = TopicPartition(name, number)
            self._partitions.setdefault(where, MemoryPartition(where))

    def partition_count(self, topic: str) -> int:
        """Give a topic's number of partitions. Raises `NoSuchTopic` if it does not exist."""
        count = sum(1 for where in self._partitions if where.topic == topic)
        if not count:
            raise NoSuchTopic(f"no such topic in memory: {topic}")
        return count

    def partition(self, where: TopicPartition) -> MemoryPartition:
        """Give a partition as it stands."""
        return self._partitions[where]

    def records(self, where: TopicPartition) -> Sequence[StoredRecord]:
        """Give a partition's committed records."""
        return self._partitions[where].committed()

    def append(
        self,
        where: TopicPartition,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
    ) -> Address:
        """Append a record of no transaction, at once."""
        stored = self._partitions[where].append(self._clock(), key, value, tuple(headers))
        self._changed()
        return Address(topic=where.topic, partition=where.partition, offset=stored.offset)

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever there may be more to read."""
        self._watchers.add(wake)

    def unwatch(self, wake: Callable[[], None]) -> None:
        """Call it no more."""
        self._watchers.discard(wake)

    def _changed(self) -> None:
        for wake in self._watchers:
            wake()

    # What clients ask

    async def connect(self) -> None:
        """Let a client start. Raises `KafkaConnectionError` while the broker is away."""
        if not self.is_reachable:
            message = "the broker in memory is away"
            raise KafkaConnectionError(message)
        await self.answer()

    @property
    def is_reachable(self) -> bool:
        """Whether it answers."""
        return self._reachable.is_set()

    async def answer(self) -> None:
        """Take the time of an answer; while the broker is away, clients repeat their request."""
        await asyncio.sleep(self.latency_s)
        await self._reachable.wait()

    async def init_producer(self, transactional_id: str | None) -> Identity:
        """Give a producer that starts its identity, which fences the last one of the id."""
        await self.connect()
        who = self._coordinator.init(transactional_id)
        self._write_markers()  # it is told once what was open has ended
        return who

    def add_partitions(self, who: Identity, places: Iterable[TopicPartition]) -> None:
        """Add partitions to a transaction. Raises `ProducerFenced`."""
        self._write_markers()  # the last transaction's come first
        self._coordinator.add(who, places)

    def produce(self, who: Identity, where: TopicPartition, batch: bytes) -> tuple[int, int]:
        """Append a batch as it goes over the wire; gives its first offset and the broker's time.

        Raises `MessageSizeTooLargeError`, `ProducerFenced`, or `OutOfOrderSequenceNumber` of a
        producer that goes on behind a batch that was refused.
        """
        self._coordinator.check(who)
        if (who, where) in self._gaps:
            raise OutOfOrderSequenceNumber(f"a batch before it was refused on {where}")
        is_refused = self._refused.get(where.topic, bool)
        if len(batch) > self._bytes_max[where.topic] or is_refused():
            self._gaps.add((who, where))
            raise MessageSizeTooLargeError(f"{len(batch)} bytes for {where.topic}")
        partition = self._partitions[where]
        base, now_ms = partition.high_watermark, self._clock()
        producer_id = who.producer_id if who.transactional_id is not None else None
        for record in MemoryRecords(batch).next_batch():
            partition.append(
                now_ms, record.key, record.value, tuple(record.headers), producer_id=producer_id
            )
        self._changed()
        return base, now_ms

    def acknowledge(self, topic: str, tell: Callable[[], None]) -> None:
        """Tell a producer that a batch was appended, now or when that is let through."""
        held = self._unacknowledged.get(topic)
        if held is None:
            tell()
        else:
            held.append(tell)

    async def end_transaction(self, who: Identity, *, is_commit: bool) -> None:
        """End a transaction. Raises `ProducerFenced`. Never answers a commit that is lost."""
        await self.answer()
        lost = self._lost_answers.pop(0) if is_commit and self._lost_answers else None
        if lost is None or lost.is_applied:
            self._coordinator.end(who, is_commit=is_commit)
        if lost is not None:
            await asyncio.get_running_loop().create_future()

    def _mark(self, where: TopicPartition, producer_id: int, is_commit: bool) -> None:  # noqa: FBT001
        """Write a marker soon: a producer is told of its commit before any marker is written."""
        if self._unmarked[where]:
            self._unmarked[where] -= 1
            self._withheld.append((where, producer_id, is_commit))
            return
        self._due.append((where, producer_id, is_commit))
        after_s = max(_MARKERS_AFTER_S, self.latency_s)
        asyncio.get_running_loop().call_later(after_s, self._write_markers)

    def _write_markers(self) -> None:
        due, self._due = self._due, []
        for where, producer_id, is_commit in due:
            self._partitions[where].mark(producer_id, self._clock(), is_commit=is_commit)
        if due:
            self._changed()

    # What a test may have it do

    def go_away(self) -> None:
        """Answer nobody; clients that are started repeat their requests."""
        self._reachable.clear()

    def come_back(self) -> None:
        """Answer again."""
        self._reachable.set()
        self._changed()

    def refuse(self, topic: str, is_refused: Callable[[], bool]) -> None:
        """Refuse a topic's batch, as one that is too large, whenever `is_refused` says so."""
        self._refused[topic] = is_refused

    @contextmanager
    def unacknowledged(self, topic: str) -> Iterator[None]:
        """Append what comes for a topic, and acknowledge it only after the block."""
        held = self._unacknowledged.setdefault(topic, [])
        try:
            yield
        finally:
            del self._unacknowledged[topic]
            for tell in held:
                tell()

    def lose_answer(self, *, is_applied: bool) -> None:
        """Never answer the next commit; whether it is done nevertheless."""
        self._lost_answers.append(_LostAnswer(is_applied))

    def withhold_marker(self, where: TopicPartition) -> None:
        """Leave a partition without the next marker that is to be written there: it hangs."""
        self._unmarked[where] += 1

    def write_withheld(self) -> None:
        """Write the markers that were withheld: what hung ends as it was decided."""
        self._due += self._withheld
        self._withheld.clear()
        self._write_markers()

    def expire(self, transactional_id: str) -> None:
        """Abort the open transaction of an id, as its time-out does."""
        self._coordinator.expire(transactional_id)

    def compact(self, topic: str, *, tombstones: bool = False) -> None:
        """Compact all partitions of a topic."""
        for where in self._of(topic):
            self._partitions[where].compact(tombstones=tombstones)

    def delete_topic(self, name: str) -> None:
        """Delete a topic with its records; it may be created anew, and begins at 0 then."""
        for where in self._of(name):
            del self._partitions[where]

    def delete_before(self, where: TopicPartition, offset: int) -> None:
        """Delete a partition's records before an offset, as retention does."""
        self._partitions[where].delete_before(offset)
        self._changed()

    def _of(self, topic: str) -> Collection[TopicPartition]:
        return [where for where in self._partitions if where.topic == topic]
