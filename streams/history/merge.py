"""The records of many partitions as one sequence, by the broker's time.

Within a partition the order of offsets holds: where the broker's clock went back, a record comes as
if it were as new as the newest before it. Records of one millisecond come in the order of the
partitions in the scope.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, Protocol

from aiokafka import TopicPartition
from pydantic import ValidationError

from millstream.schemas.base import SCHEMA_VERSION, Address
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
from millstream.streams.wire.codec import decode, require_known_version
from millstream.streams.wire.named import named_by
from millstream.streams.wire.records import LogRecord, is_input

__all__ = ["Since", "Strand", "Told", "Wanted", "merged"]

Told = Callable[[int], None]
"""Is told of how many offsets were read more."""

# Little is held at once: what is held for long leaves the processor's cache, and the garbage
# collector visits it again and again. Entries 64 at a time take a quarter longer than 16.
_AHEAD_RECORDS_MAX = 100
_READ_RECORDS_MAX = 64
_READ_WAIT_S = 1.0
_BATCH_ENTRIES = 16

_FOR_EVER_MS = 2**63

_address = Address.__pydantic_validator__.validate_python


class Wanted(Protocol):
    """Says which records are wanted."""

    @property
    def filter(self) -> EventFilter:
        """What each of them matches: those of which bytes show that they do not are not read."""

    def keeps(self, spec: TopicSpec) -> Callable[[Entry], bool] | None:
        """Give what tells whether a record of this topic is wanted; `None`: all that match are."""


async def merged(  # noqa: PLR0917  what a replay is made of
    reader: RecordReader,
    scope: Mapping[TopicPartition, TopicSpec],
    spans: tuple[Positions, Positions],
    wanted: Wanted,
    told: Told,
    since: Since | None = None,
) -> AsyncGenerator[list[Entry]]:
    """Give the records between these offsets that are wanted, in batches, oldest first.

    Holds some records of each partition. `since` leaves out the first ones of each.
    """
    starts, ends = spans
    strands = {
        partition: Strand(partition, spec, order=order, spans=spans, wanted=wanted, since=since)
        for order, (partition, spec) in enumerate(scope.items())
        if starts[partition] < ends[partition]
    }
    reader.assign({one: starts[one] for one in strands}, ends)
    async for entries in _Merge(reader, strands, told).batches():
        yield entries


class Since:
    """Leaves out what stands in each partition before its first record of this time or later.

    `begins` has the offset of that record, once it was read.
    """

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms
        self.begins: dict[TopicPartition, int] = {}

    def of(self, partition: TopicPartition, records: Sequence[LogRecord]) -> Sequence[LogRecord]:
        """Give those of a partition's next records that are not left out."""
        if partition in self.begins:
            return records
        for number, record in enumerate(records):
            if record.timestamp >= self.at_ms:
                self.begins[partition] = record.offset
                return records[number:]
        return ()


class Strand:
    """One partition of the merge: what was read ahead of it, and whether more will come."""

    def __init__(
        self,
        partition: TopicPartition,
        spec: TopicSpec,
        *,
        order: int,
        spans: tuple[Positions, Positions],
        wanted: Wanted,
        since: Since | None,
    ) -> None:
        self.partition = partition
        self.order = order
        self.position, self.end = (positions[partition] for positions in spans)
        self.ended = False
        self.ahead: deque[tuple[Any, ...]] = deque()
        self._since = since
        self._newest_ms = -1
        self.keeps = wanted.keeps(spec)
        self._sieve = sieve_of(spec, partition.topic, wanted.filter)
        self._validate = spec.event.__pydantic_validator__.validate_json
        self.stands_twice = spec.name in STANDS_TWICE
        self._is_whole = is_input(spec)  # their headers count, too
        self._lacks_tombstones = spec.name == PARKED.name  # one says that a request has ended
        self._spec = spec

    def take(self, records: Iterable[LogRecord]) -> None:
        """Keep what may be asked for: of most records only what is read of them.

        Their headers are many objects, which the garbage collector would visit again and again.
        """
        end = self.end
        some: Sequence[LogRecord] = [one for one in records if one.offset < end]
        if self._since is not None:
            some = self._since.of(self.partition, some)
        if not some:
            return
        # Also by what is passed over: records come in the same order whatever is asked for.
        times = [one.timestamp for one in some]
        backwards: dict[int, int] = {}
        if times[0] < self._newest_ms or times != sorted(times):
            newest = accumulate(times, max, initial=self._newest_ms)
            backwards = dict(
                zip((one.offset for one in some), islice(newest, 1, None), strict=True)
            )
        self._newest_ms = max(self._newest_ms, *times)
        kept = some if self._sieve is None else self._sieve(some)
        if self._lacks_tombstones:
            kept = [one for one in kept if one.value is not None]
        for one in kept:
            at_ms = one.timestamp
            order_ms = backwards.get(one.offset, at_ms) if backwards else at_ms
            if self._is_whole:
                self.ahead.append((order_ms, one))
            else:
                self.ahead.append((order_ms, at_ms, one.offset, one.key, one.value))

    def entry(self, held: tuple[Any, ...]) -> Entry:
        """Read a record."""
        if self._is_whole:
            return read_entry(held[1], self._spec)
        _, at_ms, offset, key, value = held
        place = self.partition
        address = _address({"topic": place.topic, "partition": place.partition, "offset": offset})
        try:
            event = self._validate(value)
            if event.schema_version > SCHEMA_VERSION:
                require_known_version(event.schema_version)
        except (ValidationError, TypeError, Poison):
            return self._unreadable(address, at_ms, key, value)
        return Delivery(event, address, at_ms)

    def _unreadable(
        self, address: Address, at_ms: int, key: bytes | None, value: bytes | None
    ) -> Entry:
        """Say why a record cannot be read."""
        record = _Record(self.partition, address.offset, at_ms, key, value)
        try:
            return Delivery(decode(record, self._spec.event), address, at_ms)
        except Poison as error:
            return Unreadable(address, at_ms, key, error, named_by(key, value, address))


@dataclass(frozen=True, slots=True)
class _Record:
    """A record without its headers."""

    where: TopicPartition
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class _Merge:
    """Merges partitions by time, holding at most some records of each."""

    def __init__(
        self, reader: RecordReader, strands: Mapping[TopicPartition, Strand], told: Told
    ) -> None:
        self._reader = reader
        self._strands = strands
        self._told = told

    async def batches(self) -> AsyncGenerator[list[Entry]]:
        """Give all entries, oldest first."""
        await self._fill(self._strands.values())
        heap = [(one.ahead[0][0], one.order, one) for one in self._strands.values() if one.ahead]
        heapq.heapify(heap)
        entries: list[Entry] = []
        while heap:
            strand = heap[0][2]
            self._take_run(strand, heap, entries)
            must_wait = not strand.ahead and not strand.ended
            if entries and (must_wait or len(entries) >= _BATCH_ENTRIES):
                yield entries
                entries = []
            if must_wait:
                await self._fill([strand])
            if strand.ahead:
                heapq.heapreplace(heap, (strand.ahead[0][0], strand.order, strand))
            else:
                heapq.heappop(heap)
        if entries:
            yield entries

    @staticmethod
    def _take_run(
        strand: Strand, heap: list[tuple[int, int, Strand]], entries: list[Entry]
    ) -> None:
        """Read the records of the first strand that come before those of all others."""
        ahead, entry, keeps = strand.ahead, strand.entry, strand.keeps
        until_ms = _FOR_EVER_MS
        if len(heap) > 1:
            until_ms, order, _ = min(heap[1:3])
            if strand.order < order:
                until_ms += 1
        while ahead and ahead[0][0] < until_ms:
            one = entry(ahead.popleft())
            if keeps is None or keeps(one):
                entries.append(one)

    async def _fill(self, strands: Iterable[Strand]) -> None:
        """Read until each of `strands` has a record ahead or has ended.

        Any strand that is low is read with them: one fetch brings records of many partitions.
        """
        waiting = [strand for strand in strands if not strand.ended and not strand.ahead]
        while waiting:
            low = [
                partition
                for partition, strand in self._strands.items()
                if not strand.ended and len(strand.ahead) < _AHEAD_RECORDS_MAX
            ]
            read = await self._reader.read(low, records_max=_READ_RECORDS_MAX, wait_s=_READ_WAIT_S)
            for partition, records in read.items():
                self._strands[partition].take(records)
            for strand in {*waiting, *(self._strands[partition] for partition in read)}:
                await self._note(strand)
            waiting = [strand for strand in waiting if not strand.ended and not strand.ahead]

    async def _note(self, strand: Strand) -> None:
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
