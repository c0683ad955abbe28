"""The records of many partitions as one sequence, by the broker's time.

Within a partition the order of offsets holds, also where the broker's clock went back. Records of
one millisecond come in the order of the partitions in the scope.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition

from millstream.schemas.base import Address
from millstream.schemas.errors import Poison
from millstream.schemas.topics import PARKED, TopicSpec
from millstream.streams.bus.api import Delivery, EventFilter, Unreadable
from millstream.streams.bus.record_log import (
    STANDS_TWICE,
    Entry,
    Positions,
    RecordReader,
    read_entry,
)
from millstream.streams.history.sieve import sieve_of
from millstream.streams.wire.codec import decode
from millstream.streams.wire.records import LogRecord

__all__ = ["Told", "merged"]

Told = Callable[[int], None]
"""Is told of how many offsets were read more."""

_AHEAD_RECORDS_MAX = 200
_READ_RECORDS_MAX = 64
_READ_WAIT_S = 1.0
_BATCH_ENTRIES = 64

_address = Address.__pydantic_validator__.validate_python


async def merged(
    reader: RecordReader,
    scope: Mapping[TopicPartition, TopicSpec],
    starts: Positions,
    ends: Positions,
    wanted: EventFilter,
    told: Told,
) -> AsyncGenerator[list[Entry]]:
    """Give the records between these offsets in batches, oldest first; `wanted` may leave out more.

    Only those are left out that cannot match it. Holds some records of each partition.
    """
    merge = _Merge(reader, scope, starts, ends, wanted, told)
    reader.assign({one: starts[one] for one in merge.strands}, ends)
    if not merge.strands:
        return
    async for entries in merge.batches():
        yield entries


class _Strand:
    """One partition of the merge: what was read ahead of it, and whether more will come."""

    def __init__(
        self, partition: TopicPartition, spec: TopicSpec, order: int, end: int, wanted: EventFilter
    ) -> None:
        self.partition = partition
        self.order = order
        self.end = end
        self.position = -1
        self.ended = False
        self.ahead: deque[tuple[Any, ...]] = deque()
        self._sieve = sieve_of(spec, partition.topic, wanted)
        self._is_whole = spec.name in STANDS_TWICE
        self._lacks_tombstones = spec.name == PARKED.name  # one says that a request has ended
        self._spec = spec
        self._record = _Record(partition)

    def take(self, records: Iterable[LogRecord]) -> None:
        """Keep what may be asked for: of most records only what is read of them.

        Their headers are many objects, which the garbage collector would visit again and again.
        """
        end = self.end
        some = [one for one in records if one.offset < end]
        kept = some if self._sieve is None else self._sieve(some)
        if self._lacks_tombstones:
            kept = [one for one in kept if one.value is not None]
        if self._is_whole:
            self.ahead.extend((one.timestamp, one) for one in kept)
        else:
            self.ahead.extend((one.timestamp, one.offset, one.key, one.value) for one in kept)

    def entry(self, held: tuple[Any, ...]) -> Entry:
        """Read a record."""
        if self._is_whole:
            return read_entry(held[1], self._spec)
        record = self._record
        record.timestamp, record.offset, record.key, record.value = held
        address = _address(
            {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        )
        try:
            event = decode(record, self._spec.event)
        except Poison as error:
            return Unreadable(address, record.timestamp, record.key, error)
        return Delivery(event, address, record.timestamp)


class _Record:
    """A record without its headers, one for a whole partition: filled anew for each."""

    __slots__ = ("key", "offset", "partition", "timestamp", "topic", "value")

    headers = ()

    def __init__(self, partition: TopicPartition) -> None:
        self.topic = partition.topic
        self.partition = partition.partition
        self.offset = 0
        self.timestamp = 0
        self.key: bytes | None = None
        self.value: bytes | None = None


class _Merge:
    """Merges partitions by time, holding at most some records of each."""

    def __init__(
        self,
        reader: RecordReader,
        scope: Mapping[TopicPartition, TopicSpec],
        starts: Positions,
        ends: Positions,
        wanted: EventFilter,
        told: Told,
    ) -> None:
        self._reader = reader
        self._told = told
        self.strands = {
            partition: _Strand(partition, spec, order, ends[partition], wanted)
            for order, (partition, spec) in enumerate(scope.items())
            if starts[partition] < ends[partition]
        }
        for partition, strand in self.strands.items():
            strand.position = starts[partition]

    async def batches(self) -> AsyncGenerator[list[Entry]]:
        """Give all entries, oldest first."""
        await self._fill(self.strands.values())
        heap = [(one.ahead[0][0], one.order, one) for one in self.strands.values() if one.ahead]
        heapq.heapify(heap)
        entries: list[Entry] = []
        while heap:
            strand = heap[0][2]
            self._take_run(strand, heap, entries)
            if len(entries) >= _BATCH_ENTRIES:
                yield entries
                entries = []
            if not strand.ahead and not strand.ended:
                await self._fill([strand])
            if strand.ahead:
                heapq.heapreplace(heap, (strand.ahead[0][0], strand.order, strand))
            else:
                heapq.heappop(heap)
        if entries:
            yield entries

    @staticmethod
    def _take_run(
        strand: _Strand, heap: list[tuple[int, int, _Strand]], entries: list[Entry]
    ) -> None:
        """Read the records of the first strand that come before those of all others."""
        ahead, entry = strand.ahead, strand.entry
        if len(heap) == 1:
            entries.extend(map(entry, ahead))
            ahead.clear()
            return
        until_ms, order, _ = min(heap[1:3])
        if strand.order < order:
            until_ms += 1
        while ahead and ahead[0][0] < until_ms:
            entries.append(entry(ahead.popleft()))

    async def _fill(self, strands: Iterable[_Strand]) -> None:
        """Read until each of `strands` has a record ahead or has ended.

        Any strand that is low is read with them: one fetch brings records of many partitions.
        """
        waiting = [strand for strand in strands if not strand.ended and not strand.ahead]
        while waiting:
            low = [
                partition
                for partition, strand in self.strands.items()
                if not strand.ended and len(strand.ahead) < _AHEAD_RECORDS_MAX
            ]
            read = await self._reader.read(low, records_max=_READ_RECORDS_MAX, wait_s=_READ_WAIT_S)
            for partition, records in read.items():
                self.strands[partition].take(records)
            for strand in {*waiting, *(self.strands[partition] for partition in read)}:
                await self._note(strand)
            waiting = [strand for strand in waiting if not strand.ended and not strand.ahead]

    async def _note(self, strand: _Strand) -> None:
        """Note how far a partition was read, and whether that is its end."""
        # The position, not the last record: a partition may end with a transaction's marker.
        position = await self._reader.position(strand.partition)
        if position == strand.position:
            return
        self._told(min(position, strand.end) - strand.position)
        strand.position = position
        if position >= strand.end:
            strand.ended = True
            self._reader.pause(strand.partition)
