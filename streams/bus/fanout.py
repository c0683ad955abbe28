"""One reader for all queues of a bus.

The reader stands, in each partition, at the smallest offset that a queue with room still wants.
A full queue is left behind: the reader goes on for the others, and comes back to where that one
stopped once it has room; what the others had already is not offered to them twice. A partition
that only full queues want is paused. So memory is bounded, no queue waits for another one,
and nothing is lost.

A log that ends before where the reader stood was made anew or cut: the client goes back to its
beginning by itself. Of what is read again only that is handed out which came later than all before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog
from aiokafka import TopicPartition

from millstream.schemas.errors import ServiceUnavailable
from millstream.schemas.topics import TopicSpec
from millstream.streams.broker.read_clients import RECORDS_AT_ONCE
from millstream.streams.bus.api import Unreadable
from millstream.streams.bus.delivery_queue import DeliveryQueue
from millstream.streams.bus.record_log import RecordReader, read_entry
from millstream.streams.wire.records import LogRecord

__all__ = ["Fanout"]

_READ_WAIT_S = 1.0
_TROUBLE_PAUSE_S = 1.0

_log = structlog.get_logger(__name__)


class Fanout:
    """Hands the records of one reader to queues. All but `run` is synchronous, thus atomic."""

    def __init__(self, reader: RecordReader, on_unreadable: Callable[[Unreadable], None]) -> None:
        self.unreadable = 0
        self._reader = reader
        self._on_unreadable = on_unreadable
        self._boxes: dict[TopicPartition, list[DeliveryQueue]] = {}
        self._specs: dict[TopicPartition, TopicSpec] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._read_to: dict[TopicPartition, int] = {}
        self._newest_ms: dict[TopicPartition, int] = {}
        self._again_until_ms: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._busy = asyncio.Event()

    def add(self, box: DeliveryQueue, scope: Mapping[TopicPartition, TopicSpec]) -> None:
        """Let a queue have the records of `scope` from its positions on."""
        new = scope.keys() - self._boxes.keys()
        for partition, spec in scope.items():
            self._specs[partition] = spec
            self._boxes.setdefault(partition, []).append(box)
        if new:
            for partition in new:
                self._positions[partition] = box.positions[partition]
                self._read_to[partition] = box.positions[partition]
            self._assign()
        self.steer(box)
        self._busy.set()

    def remove(self, box: DeliveryQueue) -> None:
        """Let a queue go; partitions that nobody wants any more are not read on."""
        gone = False
        for partition in box.positions:
            boxes = self._boxes.get(partition, [])
            if box in boxes:
                boxes.remove(box)
            if not boxes and self._boxes.pop(partition, None) is not None:
                gone = True
                self._paused.discard(partition)
                del self._positions[partition], self._read_to[partition], self._specs[partition]
                self._newest_ms.pop(partition, None)
                self._again_until_ms.pop(partition, None)
        if gone:
            self._assign()
        self.steer(box)
        if not self._boxes:
            self._busy.clear()

    def steer(self, box: DeliveryQueue) -> None:
        """Set the reader right in a queue's partitions after it came, went or drained."""
        for partition in box.positions:
            if partition in self._boxes:
                self._steer(partition)

    async def run(self) -> None:
        """Read and hand out until cancelled."""
        while True:
            await self._busy.wait()
            try:
                batches = await self._reader.read(records_max=RECORDS_AT_ONCE, wait_s=_READ_WAIT_S)
            except ServiceUnavailable as error:
                _log.warning("bus.read_failed", error=str(error))
                await asyncio.sleep(_TROUBLE_PAUSE_S)
                continue
            for partition, records in batches.items():
                if partition in self._boxes and records:
                    self._hand_out(partition, records)
            # A reader that always has something never waits: let the handlers run.
            await asyncio.sleep(0)

    def _assign(self) -> None:
        self._reader.assign(self._positions)
        for partition in self._paused:
            self._reader.pause(partition)

    def _hand_out(self, partition: TopicPartition, records: Sequence[LogRecord]) -> None:
        if records[0].offset < self._positions[partition]:
            self._set_back(partition, records[0].offset)
        boxes = self._boxes[partition]
        spec = self._specs[partition]
        again_until_ms = self._again_until_ms.get(partition, -1)
        for record in records:
            offset = record.offset
            if record.timestamp <= again_until_ms:
                continue
            takers = [box for box in boxes if not box.full and box.positions[partition] <= offset]
            first_time = offset >= self._read_to[partition]
            if not takers and not first_time:
                continue
            entry = read_entry(record, spec)
            size_bytes = len(record.value or b"")
            wanted = [box.put_if_wanted(partition, entry, size_bytes) for box in takers]
            if isinstance(entry, Unreadable) and first_time:
                self._note(entry, is_shown=any(wanted))
        end = records[-1].offset + 1
        for box in boxes:
            if not box.full:
                box.positions[partition] = max(box.positions[partition], end)
        self._positions[partition] = end
        self._read_to[partition] = max(self._read_to[partition], end)
        # What is read again for a queue that was left behind is older than that.
        newest_ms = max(self._newest_ms.get(partition, 0), records[-1].timestamp)
        self._newest_ms[partition] = newest_ms
        self._steer(partition)

    def _set_back(self, partition: TopicPartition, offset: int) -> None:
        """Begin a log anew that ends before where it was read to; it begins at `offset` now."""
        _log.warning(
            "bus.log_set_back",
            topic=partition.topic,
            partition=partition.partition,
            stood_at=self._positions[partition],
            read_from=offset,
        )
        self._again_until_ms[partition] = self._newest_ms.get(partition, -1)
        self._read_to[partition] = offset
        for box in self._boxes[partition]:
            box.positions[partition] = min(box.positions[partition], offset)

    def _steer(self, partition: TopicPartition) -> None:
        wanted = min(
            (box.positions[partition] for box in self._boxes[partition] if not box.full),
            default=None,
        )
        if wanted is None:
            if partition not in self._paused:
                self._paused.add(partition)
                self._reader.pause(partition)
            return
        if wanted != self._positions[partition]:
            self._positions[partition] = wanted
            self._reader.seek(partition, wanted)
        if partition in self._paused:
            self._paused.discard(partition)
            self._reader.resume(partition)

    def _note(self, entry: Unreadable, *, is_shown: bool) -> None:
        self.unreadable += 1
        if not is_shown:  # else whoever is given it tells of it
            address, error = str(entry.address), str(entry.error)
            _log.warning("bus.record_unreadable", address=address, error=error)
        self._on_unreadable(entry)
