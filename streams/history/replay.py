"""Replay: what the topics hold on a user, a session or a request, in the order it came about.

Records of all partitions are merged by the broker's time. That time is the one order that topics
share; within a partition the order of offsets always holds.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from aiokafka import TopicPartition

from millstream.schemas.base import Address, Event
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.lane_events import RunParked
from millstream.schemas.topics import (
    ATTEMPTS,
    CHECKPOINTS,
    CONTROL,
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    OBEYED,
    PARKED,
    REQUESTS,
    RESULTS,
    RUN_MIGRATION_ANSWERS,
    SESSION_EVENTS,
    STEPS,
    TOKENS,
    TopicSpec,
)
from millstream.streams.bus.api import (
    BEGINNING,
    EVERYTHING,
    NOW,
    Delivery,
    EventFilter,
    FromOffset,
    FromTime,
    Unreadable,
)
from millstream.streams.bus.kafka import KafkaLog
from millstream.streams.bus.record_log import (
    Entry,
    Positions,
    RecordLog,
    RecordReader,
    read_entry,
    scope_of,
)
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.records import LogRecord

__all__ = ["HISTORY_TOPICS", "HistoryQuery", "read_history", "replay"]

HISTORY_TOPICS = (
    *(REQUESTS, CONTROL, OBEYED, RUN_MIGRATION_ANSWERS, DECISIONS, ATTEMPTS, STEPS, TOKENS),
    *(PARKED, COSTS, CHECKPOINTS, RESULTS, SESSION_EVENTS, DEAD_LETTERS),
)
"""What is replayed unless said otherwise; records of one millisecond come in this order.

Of what is parked then only what waits for a template or tools.
"""

_AHEAD_RECORDS_MAX = 200
_READ_WAIT_S = 0.1
_MOVED_SHOWN_MAX = 65_536


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """What to replay. All that is given must hold; what is left out does not limit.

    Times are the broker's, in milliseconds, `since_ms` included and `until_ms` not. Offsets
    (`offset_from` included, `offset_until` not) hold in each partition that is read, or in
    `partition` alone.
    """

    topics: tuple[TopicSpec, ...] = HISTORY_TOPICS
    wanted: EventFilter = EVERYTHING
    since_ms: int | None = None
    until_ms: int | None = None
    partition: int | None = None
    offset_from: int | None = None
    offset_until: int | None = None


def read_history(settings: Settings, query: HistoryQuery) -> AsyncGenerator[Entry, None]:
    """Replay from Kafka what was committed when the replay began; oldest first.

    Gives a `Delivery` for each matching event, an `Unreadable` for each record that is none
    (if nothing but the user is asked for: of an unreadable record only its key is known).
    A request or command that was rerouted to its user's home partition is shown once. Only the home
    partition is read where the user is known. Memory is bounded by the number of partitions.
    Close the iterator (`contextlib.aclosing`) when leaving it early.
    Raises `ServiceUnavailable`, `Misconfigured` for a topic that does not exist, and
    `NoSuchPartition`.
    """
    return replay(KafkaLog(settings), settings, query)


async def replay(
    log: RecordLog, settings: Settings, query: HistoryQuery
) -> AsyncGenerator[Entry, None]:
    """Replay as `read_history` does, from any record log; the log need not be started."""
    names = {settings.topic(spec.name) for spec in query.topics}
    counts = await log.partition_counts(names)
    scope = scope_of(settings, query.topics, query.wanted, counts, only=query.partition)
    if not scope:
        return  # that partition is not the user's
    reader = log.reader()
    try:
        await reader.start()
        starts, ends = await _spans(reader, scope, query)
        merge = _Merge(reader, scope, starts, ends)
        shown = _ShownOnce(settings.partitions)
        async with aclosing(merge.entries()) as entries:
            async for entry in entries:
                if _asked_for(entry, query) and shown.first_time(entry):
                    yield entry
    finally:
        await reader.stop()


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
    return (
        {one: max(start[one] for start in starts) for one in scope},
        {one: min(end[one] for end in ends) for one in scope},
    )


def _asked_for(entry: Entry, query: HistoryQuery) -> bool:
    # The offsets found by time bound it only while the broker's clock never went back.
    if query.since_ms is not None and entry.at_ms < query.since_ms:
        return False
    if query.until_ms is not None and entry.at_ms >= query.until_ms:
        return False
    wanted = query.wanted
    if isinstance(entry, Delivery):
        return wanted.matches(entry.event) and not _is_merely_parked(entry.event, query)
    if wanted.types or wanted.session_id or wanted.request_id:
        return False
    if wanted.user_key is not None:
        return entry.key == wanted.user_key.encode()
    return wanted.tenant is None


def _is_merely_parked(event: Event, query: HistoryQuery) -> bool:
    """Tell whether an event says no more than that a request is parked, and nobody asked for it."""
    is_parked = isinstance(event, RunParked) and event.waits_for is None
    return is_parked and query.topics == HISTORY_TOPICS


class _ShownOnce:
    """Knows which requests and commands were shown that stand twice: where they came, and at home.

    Only those that arrived elsewhere are remembered, the newest 65,536 of them. A record is
    passed over only if its twin was shown: no header can make a request vanish.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._sources: OrderedDict[Address, None] = OrderedDict()

    def first_time(self, entry: Entry) -> bool:
        if isinstance(entry, Unreadable):
            return True
        if not isinstance(entry.event, ResolvedRequest | ControlCommand):
            return True
        home = home_partition(entry.event.partition_key, self._partitions)
        source = entry.came_as or entry.address
        if source == entry.address and entry.address.partition == home:
            return True
        if source in self._sources:
            return False
        self._sources[source] = None
        if len(self._sources) > _MOVED_SHOWN_MAX:
            self._sources.popitem(last=False)
        return True


@dataclass(slots=True)
class _Strand:
    """One partition of the merge: what was read ahead of it, and whether more will come."""

    partition: TopicPartition
    spec: TopicSpec
    order: int
    end: int
    ahead: deque[LogRecord] = field(default_factory=deque)
    ended: bool = False

    def head(self) -> tuple[int, int, int]:
        record = self.ahead[0]
        return record.timestamp, self.order, record.offset


class _Merge:
    """Merges partitions by time, holding at most some records of each."""

    def __init__(
        self,
        reader: RecordReader,
        scope: Mapping[TopicPartition, TopicSpec],
        starts: Positions,
        ends: Positions,
    ) -> None:
        self._reader = reader
        self._strands = {
            partition: _Strand(partition, spec, order, ends[partition])
            for order, (partition, spec) in enumerate(scope.items())
            if starts[partition] < ends[partition]
        }
        reader.assign({partition: starts[partition] for partition in self._strands})

    async def entries(self) -> AsyncGenerator[Entry, None]:
        """Give all entries, oldest first."""
        await self._fill(self._strands.values())
        heap = [(strand.head(), strand) for strand in self._strands.values() if strand.ahead]
        heapq.heapify(heap)
        while heap:
            _, strand = heap[0]
            record = strand.ahead.popleft()
            if record.value is not None or strand.spec.name != PARKED.name:  # it has ended
                yield read_entry(record, strand.spec)
            if not strand.ahead:
                await self._fill([strand])
            if strand.ahead:
                heapq.heapreplace(heap, (strand.head(), strand))
            else:
                heapq.heappop(heap)

    async def _fill(self, strands: Iterable[_Strand]) -> None:
        """Read until each of `strands` has a record ahead or has ended.

        Any strand that is low is read with them: one fetch brings records of many partitions.
        """
        waiting = [strand for strand in strands if not strand.ended and not strand.ahead]
        while waiting:
            low = [
                strand.partition
                for strand in self._strands.values()
                if not strand.ended and len(strand.ahead) < _AHEAD_RECORDS_MAX
            ]
            batches = await self._reader.read(
                low, records_max=_AHEAD_RECORDS_MAX, wait_s=_READ_WAIT_S
            )
            for partition, records in batches.items():
                strand = self._strands[partition]
                strand.ahead.extend(one for one in records if one.offset < strand.end)
            for partition in low:
                await self._end_if_read(self._strands[partition])
            waiting = [strand for strand in waiting if not strand.ended and not strand.ahead]

    async def _end_if_read(self, strand: _Strand) -> None:
        # The position, not the last record: a partition may end with a transaction's marker.
        if await self._reader.position(strand.partition) >= strand.end:
            strand.ended = True
            self._reader.pause(strand.partition)
