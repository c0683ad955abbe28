"""The newest so many records that are asked for: found from the end back, in growing stretches.

First they are counted, and of each no more is kept than its time; then they are read from where
the first of them stands. So memory does not grow with the records, however many are asked for.

A stretch begins at one moment in all partitions: at the first record of each that is not older
(the broker finds it; should that be a marker, or aborted, it is the next one that is read).
Whatever stands before was, in the order of a replay, before all of the stretch, also where the
broker's clock went back. So the newest of a stretch are the newest of all, and nothing depends on
how many offsets hold no record: those of markers, aborted records and what compaction removed.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from aiokafka import TopicPartition

from millstream.schemas.base import Address
from millstream.schemas.topics import CONTROL, REQUESTS, TopicSpec
from millstream.streams.broker.read_clients import RECORDS_AT_ONCE
from millstream.streams.bus.api import BEGINNING, NOW, FromTime
from millstream.streams.bus.record_log import Entry, Positions, RecordReader
from millstream.streams.history.merge import Since, Strand, Told, Wanted, merged

__all__ = ["newest"]

_STRETCH_OFFSETS_MIN = 1_000
_STRETCH_OFFSETS_PER_ENTRY = 4
_STRETCH_GROWTH = 2
_STRETCH_OVER_MAX = 8
"""A stretch may have so many times the offsets that it needs: to find less costs more."""

_LARGE_OFFSETS = 100_000
"""Of a larger stretch less is read for nothing: to find where it begins costs nothing beside."""

_STEP_MIN_MS = 1_000
_STEP_GROWTH = 4
_CLOCKS_APART_MS = 60_000
"""So much may brokers' clocks differ: what follows another record may seem that much older."""

_LOOKED_THROUGH_OFFSETS_MAX = 20_000
"""Where no more stand before, all are looked through for what a record was copied from."""

_READ_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a stretch begins in each partition: at a moment, `None` for the beginning."""

    at_ms: int | None
    positions: Positions


_Place = tuple[int, int, int]
"""Where a record comes in a replay: by its time there, its partition's order, and its offset."""


@dataclass(slots=True)
class _Counted:
    """What was counted: times, and of records that may stand twice where the first stands."""

    times: dict[TopicPartition, list[array[int]]] = field(default_factory=dict)
    firsts: dict[Address, tuple[_Place, Address]] = field(default_factory=dict)

    def add_first(self, source: Address, place: _Place, address: Address) -> None:
        """Count a record with a source, if it comes before what is known of that."""
        known = self.firsts.get(source)
        if known is None or place < known[0]:
            self.firsts[source] = (place, address)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.firsts) + sum(len(one) for one in self._arrays())

    def since(self, at_ms: int) -> int:
        """Give how many come at that time of the replay or later."""
        return sum(
            len(one) - bisect_left(one, at_ms) for one in (*self._arrays(), self._first_times())
        )

    def begins_ms(self, limit: int) -> int:
        """Give the latest time with `limit` or more of them at it or later; of all, the oldest."""
        some = [*self._arrays(), self._first_times()]
        oldest = min((one[0] for one in some if one), default=0)
        newest = max((one[-1] for one in some if one), default=0)
        while oldest < newest:
            middle = (oldest + newest + 1) // 2
            if sum(len(one) - bisect_left(one, middle) for one in some) >= limit:
                oldest = middle
            else:
                newest = middle - 1
        return oldest

    def _arrays(self) -> Iterable[array[int]]:
        return (one for stretches in self.times.values() for one in stretches)

    def _first_times(self) -> array[int]:
        return array("q", sorted(place[0] for place, _ in self.firsts.values()))


async def newest(
    reader: RecordReader,
    scope: Mapping[TopicPartition, TopicSpec],
    spans: tuple[Positions, Positions],
    wanted: Wanted,
    told: Told,
    *,
    limit: int,
    source_of: Callable[[Entry], Address | None],
) -> AsyncGenerator[list[Entry]]:
    """Give the newest `limit` entries of a replay between the offsets of `spans`, oldest first.

    Of entries with the same source the oldest counts, and no other.
    """
    starts, ends = spans
    some = {one: spec for one, spec in scope.items() if starts[one] < ends[one]}
    if some:
        back = _Backwards(reader, some, starts, ends, limit, wanted, told, source_of)
        async for entries in back.batches():
            yield entries


@dataclass(frozen=True, slots=True)
class _Backwards:
    _reader: RecordReader
    _scope: Mapping[TopicPartition, TopicSpec]
    _starts: Positions
    _ends: Positions
    _limit: int
    _wanted: Wanted
    _told: Told
    _source_of: Callable[[Entry], Address | None]
    _ignored: set[Address] = field(default_factory=set)

    async def batches(self) -> AsyncGenerator[list[Entry]]:
        """Give the newest entries."""
        # Where no more can stand than are asked for, all are: there is nothing to count.
        counted = None
        if sum(self._ends[one] - self._starts[one] for one in self._scope) > self._limit:
            counted = await self._counted()
        if counted is None or len(counted) < self._limit:
            begin, over = _Cut(None, self._starts), 0
        else:
            begins_ms = counted.begins_ms(self._limit)
            begin = await self._at(begins_ms)
            over = counted.since(begins_ms) - self._limit
        firsts = {} if counted is None else counted.firsts
        async with aclosing(self._replay(begin, firsts)) as batches:
            async for entries in batches:
                skipped = min(over, len(entries))
                over -= skipped
                if len(entries) > skipped:
                    yield entries[skipped:]

    async def _replay(
        self, begin: _Cut, firsts: Mapping[Address, tuple[_Place, Address]]
    ) -> AsyncGenerator[list[Entry]]:
        """Give what is asked for from a cut on, and of what stands twice the first."""
        since = None if begin.at_ms is None else Since(begin.at_ms)
        spans = (begin.positions, self._ends)
        shown: set[Address] = set()
        replay = merged(self._reader, self._scope, spans, self._wanted, self._told, since)
        async with aclosing(replay) as batches:
            async for entries in batches:
                kept = []
                for entry in entries:
                    source = self._source_of(entry)
                    if source is not None:
                        first = firsts.get(source)
                        if entry.address in self._ignored or source in shown:
                            continue
                        if first is not None and first[1] != entry.address:
                            continue
                        shown.add(source)
                    kept.append(entry)
                yield kept

    # How many there are

    async def _counted(self) -> _Counted:
        while True:
            counted, cut = await self._count_back()
            copies = set() if cut.at_ms is None else await self._copies(counted, cut)
            if not copies:
                return counted
            # What they kept out was let go of: what is left to be found is found anew.
            self._ignored.update(copies)

    async def _count_back(self) -> tuple[_Counted, _Cut]:
        """Count until there are enough; also gives where the oldest stretch begins."""
        counted = _Counted()
        offsets = max(_STRETCH_OFFSETS_MIN, self._limit * _STRETCH_OFFSETS_PER_ENTRY)
        if offsets > _LARGE_OFFSETS:
            offsets = max(_LARGE_OFFSETS, self._limit + self._limit // 2)
        cut = await self._cut(_Cut(None, self._ends), None, offsets)
        newer = self._ends
        while True:
            cut = await self._stretch(counted, cut, newer)
            if cut.at_ms is None or len(counted) >= self._limit:
                return counted, cut
            offsets *= _STRETCH_GROWTH
            newer, cut = cut.positions, await self._cut(cut, cut.at_ms, offsets)

    async def _stretch(self, counted: _Counted, cut: _Cut, ends: Positions) -> _Cut:
        """Count what a stretch holds, and give where it really begins."""
        since = None if cut.at_ms is None else Since(cut.at_ms)
        strands = {
            one: Strand(
                one,
                spec,
                order=order,
                spans=(cut.positions, ends),
                wanted=self._wanted,
                since=since,
            )
            for order, (one, spec) in enumerate(self._scope.items())
            if cut.positions[one] < ends[one]
        }
        times = {one: array("q") for one in strands}
        async for one, strand in self._read(strands, ends):
            self._count(counted, times[one], strand)
        for one, found in times.items():
            counted.times.setdefault(one, []).append(found)
        if since is None:
            return cut
        return _Cut(cut.at_ms, {one: since.begins.get(one, ends[one]) for one in self._scope})

    async def _read(
        self, strands: Mapping[TopicPartition, Strand], ends: Positions
    ) -> AsyncGenerator[tuple[TopicPartition, Strand]]:
        """Read partitions to their ends, in whatever order; gives each that has records ahead."""
        self._reader.assign({one: strand.position for one, strand in strands.items()}, ends)
        unread = dict(strands)
        while unread:
            read = await self._reader.read(
                tuple(unread), records_max=RECORDS_AT_ONCE, wait_s=_READ_WAIT_S
            )
            for one, records in read.items():
                strands[one].take(records)
                yield one, strands[one]
            for one in tuple(unread):
                position = await self._reader.position(one)
                self._told(min(position, ends[one]) - min(unread[one].position, ends[one]))
                unread[one].position = position
                if position >= ends[one]:
                    del unread[one]
                    self._reader.pause(one)

    def _count(self, counted: _Counted, times: array[int], strand: Strand) -> None:
        ahead, keeps = strand.ahead, strand.keeps
        if keeps is None and not strand.stands_twice:
            times.extend(held[0] for held in ahead)  # nothing else is to be known of them
            ahead.clear()
        while ahead:
            held = ahead.popleft()
            entry = strand.entry(held)
            if keeps is not None and not keeps(entry):
                continue
            source = self._source_of(entry) if strand.stands_twice else None
            if source is None:
                times.append(held[0])
            elif entry.address not in self._ignored:
                place = (held[0], strand.order, entry.address.offset)
                counted.add_first(source, place, entry.address)

    # Where a stretch begins

    async def _cut(self, newer: _Cut, from_ms: int | None, offsets: int) -> _Cut:
        """Find a moment with some `offsets` of offsets between it and `newer`."""
        beginning = _Cut(None, self._starts)
        if self._between(beginning, newer) <= _most(offsets):
            return beginning
        too_new_ms, old = await self._old_enough(newer, from_ms, offsets)
        while (
            old.at_ms is not None
            and old.at_ms - too_new_ms < -1
            and self._between(old, newer) > _most(offsets)
        ):
            middle = await self._at(too_new_ms - (too_new_ms - old.at_ms) // 2)
            if self._between(middle, newer) >= offsets:
                old = middle
            else:
                too_new_ms = middle.at_ms or 0
        return old

    async def _old_enough(self, newer: _Cut, from_ms: int | None, offsets: int) -> tuple[int, _Cut]:
        """Give a moment that is too new, and one that is not; they may lie far apart."""
        step_ms = _STEP_MIN_MS
        if from_ms is None:
            # Of the broker's time only this is known: it is about ours.
            from_ms = time.time_ns() // 1_000_000
            now = await self._at(from_ms)
            while self._between(now, newer) >= offsets:
                old, now = now, await self._at(from_ms + step_ms)
                step_ms *= _STEP_GROWTH
                if self._between(now, newer) < offsets:
                    return now.at_ms or 0, old
        too_new_ms = from_ms
        while from_ms > step_ms:
            old = await self._at(from_ms - step_ms)
            if self._between(old, newer) >= offsets:
                return too_new_ms, old
            too_new_ms = from_ms - step_ms
            step_ms *= _STEP_GROWTH
        return too_new_ms, _Cut(None, self._starts)

    def _between(self, older: _Cut, newer: _Cut) -> int:
        return sum(newer.positions[one] - older.positions[one] for one in self._scope)

    async def _at(self, at_ms: int) -> _Cut:
        found = await self._reader.offsets(self._scope, FromTime(at_ms))
        return _Cut(
            at_ms,
            {one: min(max(found[one], self._starts[one]), self._ends[one]) for one in self._scope},
        )

    # What stands twice

    async def _copies(self, counted: _Counted, cut: _Cut) -> set[Address]:
        """Give which counted entries have a twin before the cut, that is asked for as well."""
        sources = set(counted.firsts)
        if not sources:
            return set()
        told = {REQUESTS.name, CONTROL.name}
        scope = {one: spec for one, spec in self._scope.items() if spec.name in told}
        since: Positions = self._starts
        if sum(cut.positions[one] - since[one] for one in scope) > _LOOKED_THROUGH_OFFSETS_MAX:
            # No copy is older than what it is copied from, but for what clocks differ by.
            oldest_ms = await self._oldest_ms(sources)
            if oldest_ms is not None:
                since = (await self._at(max(0, oldest_ms - _CLOCKS_APART_MS))).positions
        before: set[Address | None] = set()
        spans = (since, cut.positions)
        replay = merged(self._reader, scope, spans, self._wanted, self._told)
        async with aclosing(replay) as batches:
            async for entries in batches:
                before.update(sources.intersection(map(self._source_of, entries)))
        return {counted.firsts[source][1] for source in before if source is not None}

    async def _oldest_ms(self, sources: Collection[Address]) -> int | None:
        """Give the oldest of the broker's times of these records, `None` if one is not there."""
        offsets: dict[TopicPartition, set[int]] = {}
        for one in sources:
            where = TopicPartition(one.topic, one.partition)
            offsets.setdefault(where, set()).add(one.offset)
        oldest: list[int] = []
        for where, wanted in offsets.items():
            if where not in self._starts:
                return None
            starts = await self._reader.offsets([where], BEGINNING)
            ends = await self._reader.offsets([where], NOW)
            first, end = min(wanted), max(wanted) + 1
            if first < starts[where] or end > ends[where]:
                return None
            missing = set(wanted)
            self._reader.assign({where: first}, {where: end})
            while await self._reader.position(where) < end:
                read = await self._reader.read(
                    [where], records_max=RECORDS_AT_ONCE, wait_s=_READ_WAIT_S
                )
                for record in read.get(where, ()):
                    if record.offset in missing:
                        missing.discard(record.offset)
                        oldest.append(record.timestamp)
            if missing:
                return None
        return min(oldest, default=None)


def _most(offsets: int) -> int:
    """Give the most offsets of a stretch that needs so many."""
    return offsets * (_STRETCH_OVER_MAX if offsets < _LARGE_OFFSETS else 2)
