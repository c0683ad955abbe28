"""The newest matching events of some partitions: reads each backwards in growing steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka import TopicPartition

from millstream.schemas.topics import TopicSpec
from millstream.streams.broker.read_clients import RECORDS_AT_ONCE
from millstream.streams.bus.api import BEGINNING, NOW, Delivery, EventFilter
from millstream.streams.bus.record_log import RecordReader, read_entry

__all__ = ["newest"]

_STEP_MIN = 500
_STEP_GROWTH = 4
_READ_WAIT_S = 0.1


async def newest(
    reader: RecordReader,
    scope: Mapping[TopicPartition, TopicSpec],
    wanted: EventFilter,
    limit: int,
) -> list[Delivery]:
    """Give the newest `limit` matching events, oldest first, by the broker's time.

    Ties go by the order of `scope`. Holds at most `limit` deliveries per partition; records that
    cannot be read are passed over. Ends where the partitions ended at the call.
    """
    search = _Search(reader, wanted, limit)
    beginnings = await reader.offsets(scope, BEGINNING)
    ends = await reader.offsets(scope, NOW)
    found: list[tuple[int, int, int, Delivery]] = []
    for order, (partition, spec) in enumerate(scope.items()):
        matching = await search.newest_of(partition, spec, beginnings[partition], ends[partition])
        found.extend((one.at_ms, order, one.address.offset, one) for one in matching)
    found.sort(key=lambda one: one[:3])
    return [delivery for *_, delivery in found[-limit:]]


@dataclass(frozen=True, slots=True)
class _Search:
    reader: RecordReader
    wanted: EventFilter
    limit: int

    async def newest_of(
        self, partition: TopicPartition, spec: TopicSpec, beginning: int, end: int
    ) -> deque[Delivery]:
        """Step back from the end until enough is found; a rare match makes the steps longer."""
        step = max(self.limit, _STEP_MIN)
        found: deque[Delivery] = deque(maxlen=self.limit)
        while end > beginning and len(found) < self.limit:
            since = max(beginning, end - step)
            older = await self._matching(partition, spec, since, end)
            while older and len(found) < self.limit:
                found.appendleft(older.pop())
            end = since
            step *= _STEP_GROWTH
        return found

    async def _matching(
        self, partition: TopicPartition, spec: TopicSpec, since: int, end: int
    ) -> deque[Delivery]:
        found: deque[Delivery] = deque(maxlen=self.limit)
        self.reader.assign({partition: since}, {partition: end})
        while await self.reader.position(partition) < end:
            batches = await self.reader.read(records_max=RECORDS_AT_ONCE, wait_s=_READ_WAIT_S)
            for record in batches.get(partition, ()):
                if record.offset >= end:
                    break
                entry = read_entry(record, spec)
                if isinstance(entry, Delivery) and self.wanted.matches(entry.event):
                    found.append(entry)
        return found
