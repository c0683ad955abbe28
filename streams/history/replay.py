"""Replay: what the topics hold on a user, a session or a request, in the order it came about.

Records of all partitions are merged by the broker's time. That time is the one order that topics
share; within a partition the order of offsets always holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from aiokafka import TopicPartition

from millstream.schemas.base import Address
from millstream.schemas.topics import PARKED, TopicSpec
from millstream.streams.bus.api import BEGINNING, NOW, EventFilter, FromOffset, FromTime
from millstream.streams.bus.kafka import KafkaLog
from millstream.streams.bus.record_log import (
    STANDS_TWICE,
    Entry,
    Positions,
    RecordLog,
    RecordReader,
    scope_of,
)
from millstream.streams.history.backwards import newest
from millstream.streams.history.merge import merged
from millstream.streams.history.query import (
    HISTORY_TOPICS,
    HistoryQuery,
    asked_for,
    moved_from,
)
from millstream.streams.settings import Settings
from millstream.streams.wire.unread import UnreadBatch

__all__ = [
    "HISTORY_TOPICS",
    "HistoryQuery",
    "OnProgress",
    "history_batches",
    "read_history",
    "replay",
]

_MOVED_SHOWN_MAX = 65_536
_READ_WAIT_S = 1.0

OnProgress = Callable[[int, int], None]
"""Is told how many offsets were read so far, and how many are to be read at most."""


def read_history(settings: Settings, query: HistoryQuery) -> AsyncGenerator[Entry, None]:
    """Replay from Kafka what was committed when the replay began; oldest first.

    Gives a `Delivery` for each matching event, an `Unreadable` for each record that is none
    (if nothing but the user is asked for: of an unreadable record only its key is known).
    A request or command that was rerouted to its user's home partition is shown once. Only the home
    partition is read where the user is known. Memory is bounded by the number of partitions, and
    by the query's `limit` if it has one.
    Close the iterator (`contextlib.aclosing`) when leaving it early.
    Raises `ServiceUnavailable`, `Misconfigured` for a topic that does not exist, and
    `NoSuchPartition`.
    """
    return replay(KafkaLog(settings), settings, query)


def history_batches(
    settings: Settings, query: HistoryQuery, on_progress: OnProgress | None = None
) -> AsyncGenerator[list[Entry], None]:
    """Replay as `read_history` does, in batches: less work for each record."""
    return _batches(KafkaLog(settings), settings, query, on_progress)


async def replay(
    log: RecordLog, settings: Settings, query: HistoryQuery, on_progress: OnProgress | None = None
) -> AsyncGenerator[Entry, None]:
    """Replay as `read_history` does, from any record log; the log need not be started."""
    async with aclosing(_batches(log, settings, query, on_progress)) as batches:
        async for entries in batches:
            for entry in entries:
                yield entry


async def _batches(
    log: RecordLog, settings: Settings, query: HistoryQuery, on_progress: OnProgress | None
) -> AsyncGenerator[list[Entry], None]:
    names = {settings.topic(spec.name) for spec in query.topics}
    counts = await log.partition_counts(names)
    scope = scope_of(settings, query.topics, query.wanted, counts, only=query.partition)
    if not scope:
        return  # that partition is not the user's
    reader = log.reader()
    try:
        await reader.start()
        spans = await _spans(reader, scope, query)
        progress = _Progress(sum(spans[1][one] - spans[0][one] for one in scope), on_progress)
        if query.limit is None:
            wanted = _Wanted(query, _ShownOnce(settings.partitions))
            async with aclosing(merged(reader, scope, spans, wanted, progress.more)) as batches:
                async for entries in batches:
                    yield entries
        else:
            found = newest(
                reader,
                scope,
                spans,
                _Wanted(query),
                progress.more,
                limit=query.limit,
                source_of=lambda entry: moved_from(entry, settings.partitions),
            )
            async with aclosing(found) as batches:
                async for entries in batches:
                    yield entries
    finally:
        await reader.stop()


class _Progress:
    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self._read = 0
        self._total = total
        self._on_progress = on_progress

    def more(self, offsets: int) -> None:
        self._read += offsets
        if self._on_progress is not None:
            self._on_progress(min(self._read, self._total), self._total)


async def _spans(
    reader: RecordReader, scope: Mapping[TopicPartition, TopicSpec], query: HistoryQuery
) -> tuple[Positions, Positions]:
    """Give where each partition begins and ends for this query."""
    starts = [await reader.offsets(scope, BEGINNING)]
    ends = [await reader.offsets(scope, NOW)]
    if query.since_ms is not None:
        starts.append(await reader.offsets(scope, FromTime(query.since_ms)))
    if query.until_ms is not None:
        ends.append(await reader.offsets(scope, FromTime(query.until_ms)))
    if query.offset_from is not None:
        starts.append(await reader.offsets(scope, FromOffset(query.offset_from)))
    if query.offset_until is not None:
        ends.append(await reader.offsets(scope, FromOffset(query.offset_until)))
    least = {one: max(start[one] for start in starts) for one in scope}
    most = {one: max(least[one], min(end[one] for end in ends)) for one in scope}
    if query.offset_until is not None:
        for one in scope:
            if least[one] < most[one] < ends[0][one]:
                most[one] = await _behind_batch(reader, one, most[one], ends[0][one])
    return least, most


async def _behind_batch(
    reader: RecordReader, partition: TopicPartition, end: int, last: int
) -> int:
    """Give the end of a batch that cannot be read and that begins before `end`, else `end`.

    What stands for it in a reader's hands stands at its last offset.
    """
    reader.assign({partition: end - 1}, {partition: last})
    while await reader.position(partition) < end:
        read = await reader.read([partition], records_max=1, wait_s=_READ_WAIT_S)
        for record in read.get(partition, ()):
            if isinstance(record.value, UnreadBatch) and record.value.first < end:
                return max(end, record.offset + 1)
            return end
    return end


class _ShownOnce:
    """Knows which requests and commands were shown that stand twice: where they came, and at home.

    Only those that arrived elsewhere are remembered, the newest 65,536 of them. A record is
    passed over only if its twin was shown: no header can make a request vanish.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._sources: OrderedDict[Address, None] = OrderedDict()

    def first_time(self, entry: Entry) -> bool:
        source = moved_from(entry, self._partitions)
        if source is None:
            return True
        if source in self._sources:
            return False
        self._sources[source] = None
        if len(self._sources) > _MOVED_SHOWN_MAX:
            self._sources.popitem(last=False)
        return True


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a query asks for; of what stands twice only the first, if `shown` is given."""

    query: HistoryQuery
    shown: _ShownOnce | None = None

    @property
    def filter(self) -> EventFilter:
        return self.query.wanted

    def keeps(self, spec: TopicSpec) -> Callable[[Entry], bool] | None:
        query = self.query
        shown = self.shown if spec.name in STANDS_TWICE else None
        if query.takes_all and spec.name != PARKED.name:
            return None if shown is None else shown.first_time
        if shown is None:
            return lambda entry: asked_for(entry, query)
        return lambda entry: asked_for(entry, query) and shown.first_time(entry)
