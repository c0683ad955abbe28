"""Consumers in memory: what aiokafka's do that have no group and are assigned by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError

from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.partition import MemoryPartition, StoredRecord

__all__ = ["MemoryConsumer", "MemoryEnds"]

_RECORDS_MAX = 500


class _OffsetAndTimestamp(NamedTuple):
    offset: int
    timestamp: int


class MemoryConsumer:
    """Reads committed records of the partitions that it is assigned."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._positions: dict[TopicPartition, int | None] = {}
        self._paused: set[TopicPartition] = set()
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Connect. Raises `KafkaConnectionError`."""
        await self._broker.connect()
        self._broker.watch(self._changed.set)

    async def stop(self) -> None:
        """Disconnect."""
        self._broker.unwatch(self._changed.set)

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions and no others, from their beginnings unless it seeks."""
        self._positions = dict.fromkeys(partitions)
        self._paused.clear()
        self._changed.set()

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read an assigned partition on from an offset."""
        self._position(partition)
        self._positions[partition] = offset
        self._changed.set()

    def pause(self, *partitions: TopicPartition) -> None:
        """Leave assigned partitions be."""
        for one in partitions:
            self._position(one)
        self._paused.update(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        """Read paused partitions on."""
        self._paused.difference_update(partitions)
        self._changed.set()

    async def position(self, partition: TopicPartition) -> int:
        """Give the offset that would be read next, past what is passed over."""
        return self._position(partition)

    async def beginning_offsets(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the oldest offsets."""
        await self._broker.answer()
        return {one: self._log(one).log_start for one in partitions}

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Give the last stable offsets: what reads committed records sees no further."""
        await self._broker.answer()
        return {one: self._log(one).last_stable_offset for one in partitions}

    async def offsets_for_times(
        self, times_ms: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, _OffsetAndTimestamp | None]:
        """Give the first offset not older than a time, `None` if none is stable."""
        await self._broker.answer()
        found = {
            one: self._log(one).first_since(at_ms, is_committed=True)
            for one, at_ms in times_ms.items()
        }
        return {
            one: None if first is None else _OffsetAndTimestamp(first.offset, first.timestamp)
            for one, first in found.items()
        }

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[StoredRecord]]:
        """Give what has come (of `partitions`, if given), after waiting for some."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        while True:
            self._changed.clear()
            await asyncio.sleep(self._broker.latency_s)
            if self._broker.is_reachable:
                found, has_moved = self._take(partitions, max_records or _RECORDS_MAX)
                if found or has_moved:
                    return found
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return {}

    def __aiter__(self) -> AsyncIterator[StoredRecord]:
        """Give record after record, waiting for each."""
        return self._records()

    async def _records(self) -> AsyncIterator[StoredRecord]:
        while True:
            for records in (await self.getmany(timeout_ms=3_600_000, max_records=1)).values():
                for record in records:
                    yield record

    def _take(
        self, partitions: Collection[TopicPartition], records_max: int
    ) -> tuple[dict[TopicPartition, list[StoredRecord]], bool]:
        taken: dict[TopicPartition, list[StoredRecord]] = {}
        has_moved = False
        for one in partitions or tuple(self._positions):
            if one in self._paused or not records_max:
                continue
            before = self._position(one)
            records, after = self._log(one).fetch(
                before, records_max=records_max, is_committed=True
            )
            self._positions[one] = after
            has_moved |= after != before
            records_max -= len(records)
            if records:
                taken[one] = records
        return taken, has_moved

    def _position(self, partition: TopicPartition) -> int:
        if partition not in self._positions:
            raise IllegalStateError(f"{partition} is not assigned")
        position = self._positions[partition]
        return self._log(partition).log_start if position is None else position

    def _log(self, where: TopicPartition) -> MemoryPartition:
        return self._broker.partition(where)


class MemoryEnds:
    """Where partitions end."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def start(self) -> None:
        """Connect. Raises `KafkaConnectionError`."""
        await self._broker.connect()

    async def stop(self) -> None:
        """Disconnect."""

    async def high_watermarks(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the offsets behind the last records."""
        await self._broker.answer()
        return {one: self._broker.partition(one).high_watermark for one in partitions}

    async def log_start_offsets(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the oldest offsets that are not removed."""
        await self._broker.answer()
        return {one: self._broker.partition(one).log_start for one in partitions}

    async def stable_ends(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Give the last stable offsets."""
        await self._broker.answer()
        return {one: self._broker.partition(one).last_stable_offset for one in partitions}
