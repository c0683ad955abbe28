"""A partition of every topic in memory: what commits to it and what reads it, as Kafka's do."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition

from millstream.streams.broker.batches import Outgoing
from millstream.streams.transactions.committer import CommitRefused, Hear

LARGE_BYTES = 5_000


@dataclass(frozen=True)
class MemoryRecord:
    """A committed record."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


@dataclass
class MemoryPartition:
    """Committed records by topic; like transactions' markers, some offsets hold none."""

    now_ms: Any
    topics: dict[str, list[MemoryRecord]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    starts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def delete_before(self, topic: str, offset: int) -> None:
        """Remove the records before an offset, as retention or a request to delete does."""
        self.starts[topic] = max(self.starts[topic], min(offset, self.ends[topic]))
        kept = [one for one in self.topics[topic] if one.offset >= self.starts[topic]]
        self.topics[topic] = kept

    def compact(self, topic: str) -> None:
        """Keep the newest record of each key alone, with its offset."""
        newest = {one.key: one.offset for one in self.topics[topic]}
        kept = [one for one in self.topics[topic] if newest[one.key] == one.offset]
        self.topics[topic] = kept

    def append(self, record: Outgoing) -> int:
        """Append a record; gives its offset."""
        offset = self.ends[record.topic]
        self.ends[record.topic] += 1
        self.topics[record.topic].append(
            MemoryRecord(
                record.topic,
                record.partition,
                offset,
                self.now_ms(),
                record.encoded.key,
                record.encoded.value,
            )
        )
        return offset


class MemoryCommitter:
    """Commits members in order, some together; refuses one for which `refuses` says so."""

    def __init__(
        self, log: MemoryPartition, chance: random.Random, *, refused_share: float = 0.0
    ) -> None:
        self._log = log
        self._chance = chance
        self._refused_share = refused_share
        self._waiting: deque[tuple[tuple[Outgoing, ...], Hear, asyncio.Future[tuple[int, ...]]]] = (
            deque()
        )
        self._task = asyncio.create_task(self._run())

    def submit(
        self, records: Iterable[Outgoing], *, lazy: bool = False, hear: Hear = lambda _outcome: None
    ) -> asyncio.Future[tuple[int, ...]]:
        """Queue records."""
        del lazy
        committed: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        committed.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._waiting.append((tuple(records), hear, committed))
        return committed

    async def crash(self) -> None:
        """Stop in the middle."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            for _ in range(self._chance.randint(1, 4)):
                await asyncio.sleep(0)  # noqa: TID251  the time that a transaction takes
            for _ in range(min(len(self._waiting), self._chance.randint(1, 6))):
                records, hear, committed = self._waiting.popleft()
                if self._refuses(records):
                    refused = CommitRefused("too large")
                    hear(refused)
                    committed.set_exception(refused)
                    break
                offsets = tuple(self._log.append(record) for record in records)
                hear(offsets)
                if not committed.done():
                    committed.set_result(offsets)
            for topic in self._log.ends:
                self._log.ends[topic] += self._chance.randint(0, 1)

    def _refuses(self, records: tuple[Outgoing, ...]) -> bool:
        is_outcome = any(record.topic.endswith(".results") for record in records)
        return is_outcome and self._chance.random() < self._refused_share


class MemoryReader:
    """Reads a partition in memory."""

    def __init__(self, log: MemoryPartition) -> None:
        self._log = log
        self.lock = asyncio.Lock()

    async def high_watermarks(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the offsets behind the last records."""
        return {where: self._log.ends[where.topic] for where in partitions}

    async def log_start_offsets(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the offsets before which all records were removed."""
        return {where: self._log.starts[where.topic] for where in partitions}

    async def stable_high_watermarks(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the same: what is not committed does not stand here."""
        return await self.high_watermarks(partitions)

    async def read(
        self,
        ends: Mapping[TopicPartition, int],
        *,
        since_ms: int | None = None,
        from_offset: int | None = None,
    ) -> AsyncIterator[MemoryRecord]:
        """Give the records before the ends."""
        for where, end in ends.items():
            for record in self._log.topics[where.topic]:
                is_late = record.timestamp >= (since_ms or 0)
                if (from_offset or 0) <= record.offset < end and is_late:
                    yield record
