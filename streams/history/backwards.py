"""The newest so many records that are asked for: read back from the end in growing stretches.

A stretch begins at one moment in all partitions: at the first record of each that is not older
(the broker finds it; should that be a marker, or aborted, it is the next one that is read).
Whatever stands before was, in the order of a replay, before all of the stretch, also where the
broker's clock went back. So the newest of a stretch are the newest of all, and nothing depends on
how many offsets hold no record: those of markers, aborted records and what compaction removed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from aiokafka import TopicPartition

from millstream.schemas.base import Address
from millstream.schemas.topics import CONTROL, REQUESTS, TopicSpec
from millstream.streams.bus.api import BEGINNING, NOW, FromTime
from millstream.streams.bus.record_log import Entry, Positions, RecordReader
from millstream.streams.history.merge import Since

__all__ = ["Replay", "newest"]

Replay = Callable[
    [Mapping[TopicPartition, TopicSpec], tuple[Positions, Positions], Since | None],
    AsyncGenerator[list[Entry]],
]
"""Gives what is asked for between two offsets of each partition, oldest first, in batches."""

_STRETCH_OFFSETS_MIN = 1_000
_STRETCH_OFFSETS_PER_ENTRY = 4
_STRETCH_GROWTH = 2
_STRETCH_OVER_MAX = 8
"""A stretch may have so many times the offsets that it needs: to find less costs more."""

_STEP_MIN_MS = 1_000
_STEP_GROWTH = 4
_CLOCKS_APART_MS = 60_000
"""So much may brokers' clocks differ: what follows another record may seem that much older."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a stretch begins in each partition: at a moment, `None` for the beginning."""

    at_ms: int | None
    positions: Positions


async def newest(
    reader: RecordReader,
    scope: Mapping[TopicPartition, TopicSpec],
    spans: tuple[Positions, Positions],
    *,
    limit: int,
    replay: Replay,
    source_of: Callable[[Entry], Address | None],
) -> list[Entry]:
    """Give the newest `limit` entries of `replay` between the offsets of `spans`, oldest first.

    Of entries with the same source the oldest counts, and no other.
    """
    starts, ends = spans
    some = {one: spec for one, spec in scope.items() if starts[one] < ends[one]}
    if not some:
        return []
    return await _Backwards(reader, some, starts, ends, limit, replay, source_of).newest()


@dataclass(frozen=True, slots=True)
class _Backwards:
    _reader: RecordReader
    _scope: Mapping[TopicPartition, TopicSpec]
    _starts: Positions
    _ends: Positions
    _limit: int
    _replay: Replay
    _source_of: Callable[[Entry], Address | None]
    _ignored: set[Address] = field(default_factory=set)

    async def newest(self) -> list[Entry]:
        while True:
            found, cut = await self._read_back()
            copies = set() if cut.at_ms is None else await self._copies(found, cut)
            if not copies:
                return found
            # What they kept out was let go of: what is left to be found is found anew.
            self._ignored.update(copies)

    async def _read_back(self) -> tuple[list[Entry], _Cut]:
        """Give the newest entries, and where the oldest stretch begins that was read."""
        found: list[Entry] = []
        offsets = max(_STRETCH_OFFSETS_MIN, self._limit * _STRETCH_OFFSETS_PER_ENTRY)
        cut = await self._cut(_Cut(None, self._ends), None, offsets)
        newer = self._ends
        while True:
            entries, sources, cut = await self._stretch(cut, newer)
            found = [one for one in found if self._source_of(one) not in sources]
            found = [*entries, *found][-self._limit :]
            if cut.at_ms is None or len(found) == self._limit:
                return found, cut
            offsets *= _STRETCH_GROWTH
            newer, cut = cut.positions, await self._cut(cut, cut.at_ms, offsets)

    async def _stretch(self, cut: _Cut, ends: Positions) -> tuple[deque[Entry], set[Address], _Cut]:
        """Give the newest entries of a stretch, and the sources of all that may stand twice.

        And where it really begins.
        """
        since = None if cut.at_ms is None else Since(cut.at_ms)
        newest: deque[Entry] = deque(maxlen=self._limit)
        sources: set[Address] = set()
        async with aclosing(self._replay(self._scope, (cut.positions, ends), since)) as batches:
            async for entries in batches:
                for entry in entries:
                    if entry.address in self._ignored:
                        continue
                    source = self._source_of(entry)
                    if source is not None:
                        if source in sources:
                            continue
                        sources.add(source)
                    newest.append(entry)
        if since is not None:
            begins = {one: since.begins.get(one, ends[one]) for one in self._scope}
            cut = _Cut(cut.at_ms, begins)
        return newest, sources, cut

    # Where a stretch begins

    async def _cut(self, newer: _Cut, from_ms: int | None, offsets: int) -> _Cut:
        """Find a moment with some `offsets` of offsets between it and `newer`."""
        beginning = _Cut(None, self._starts)
        if self._between(beginning, newer) <= offsets * _STRETCH_OVER_MAX:
            return beginning
        too_new_ms, old = await self._old_enough(newer, from_ms, offsets)
        while (
            old.at_ms is not None
            and old.at_ms - too_new_ms < -1
            and self._between(old, newer) > offsets * _STRETCH_OVER_MAX
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

    async def _copies(self, found: list[Entry], cut: _Cut) -> set[Address]:
        """Give which entries have a twin before the cut, that is asked for as well."""
        sources = {source for one in found if (source := self._source_of(one)) is not None}
        if not sources:
            return set()
        # No copy is older than what it is copied from.
        came_ms = [await self._came_ms(source) for source in sources]
        since: Positions = self._starts
        if None not in came_ms:
            oldest_ms = min(one for one in came_ms if one is not None)
            since = (await self._at(max(0, oldest_ms - _CLOCKS_APART_MS))).positions
        told = {REQUESTS.name, CONTROL.name}
        scope = {one: spec for one, spec in self._scope.items() if spec.name in told}
        before: set[Address | None] = set()
        async with aclosing(self._replay(scope, (since, cut.positions), None)) as batches:
            async for entries in batches:
                before.update(sources.intersection(map(self._source_of, entries)))
        return {one.address for one in found if self._source_of(one) in before}

    async def _came_ms(self, source: Address) -> int | None:
        """Give the broker's time of the record at an address, `None` where none is."""
        where = TopicPartition(source.topic, source.partition)
        if where not in self._starts:
            return None
        starts = await self._reader.offsets([where], BEGINNING)
        ends = await self._reader.offsets([where], NOW)
        if not starts[where] <= source.offset < ends[where]:
            return None
        end = source.offset + 1
        self._reader.assign({where: source.offset}, {where: end})
        while await self._reader.position(where) < end:
            read = await self._reader.read([where], records_max=1, wait_s=1.0)
            for record in read.get(where, ()):
                return record.timestamp if record.offset == source.offset else None
        return None
