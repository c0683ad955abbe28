"""One partition in memory: its records and markers, and up to where they are stable."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aiokafka import TopicPartition

__all__ = ["MemoryPartition", "StoredRecord"]

Headers = tuple[tuple[str, bytes | None], ...]
Kind = Literal["record", "commit", "abort"]


@dataclass(slots=True, eq=False)
class StoredRecord:
    """A record, or the marker of a transaction, as it stands on a partition.

    `timestamp` is the broker's, in milliseconds. `producer_id` is that of a transaction, `None` of
    a record that belongs to none.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    producer_id: int | None = None
    kind: Kind = "record"
    is_aborted: bool = False


class MemoryPartition:
    """The log of one partition. Offsets are never used twice, whatever is deleted."""

    def __init__(self, where: TopicPartition) -> None:
        self._where = where
        self._records: list[StoredRecord] = []
        self._open: dict[int, int] = {}
        self.log_start = 0
        """The oldest offset that may be read; retention moves it on."""
        self.high_watermark = 0
        """The offset behind the last record or marker."""

    @property
    def last_stable_offset(self) -> int:
        """Where the first open transaction begins, else the high watermark."""
        return min(self._open.values(), default=self.high_watermark)

    @property
    def open_transactions(self) -> dict[int, int]:
        """Give the first offset of each open transaction, by producer id."""
        return dict(self._open)

    def append(
        self,
        at_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        producer_id: int | None = None,
    ) -> StoredRecord:
        """Append a record, of the open transaction of `producer_id` if that is given."""
        if producer_id is not None:
            self._open.setdefault(producer_id, self.high_watermark)
        return self._append(at_ms, key, value, headers, producer_id=producer_id)

    def mark(self, producer_id: int, at_ms: int, *, is_commit: bool) -> None:
        """Write a transaction's marker: it ends whatever its producer has open here, all alike."""
        first = self._open.pop(producer_id, None)
        if not is_commit and first is not None:
            for record in self._records[self._index(first) :]:
                if record.producer_id == producer_id:
                    record.is_aborted = True
        kind: Kind = "commit" if is_commit else "abort"
        self._append(at_ms, None, None, producer_id=producer_id, kind=kind)

    def fetch(
        self, position: int, *, records_max: int, is_committed: bool
    ) -> tuple[list[StoredRecord], int]:
        """Give records from `position` on, and the position behind them and what is passed over.

        A position that is not in the log is reset to the oldest one, as
        `auto_offset_reset="earliest"` has it. Up to the last stable offset and without what was
        aborted, if `is_committed`.
        """
        if not self.log_start <= position <= self.high_watermark:
            position = self.log_start
        end = self.last_stable_offset if is_committed else self.high_watermark
        found: list[StoredRecord] = []
        for record in self._records[self._index(position) :]:
            if record.offset >= end:
                break
            if record.kind != "record" or (is_committed and record.is_aborted):
                continue
            found.append(record)
            if len(found) >= records_max:
                return found, record.offset + 1
        return found, max(position, end)

    def first_since(self, at_ms: int, *, is_committed: bool) -> StoredRecord | None:
        """Give the first record or marker not older than `at_ms`; `None` if it is not stable."""
        since = (one for one in self._records if one.timestamp >= at_ms)
        first = next(since, None)
        if first is None or (is_committed and first.offset >= self.last_stable_offset):
            return None
        return first

    def committed(self) -> Sequence[StoredRecord]:
        """Give all committed records that are left."""
        count = len(self._records) or 1
        return self.fetch(self.log_start, records_max=count, is_committed=True)[0]

    def delete_before(self, offset: int) -> None:
        """Delete the records before an offset, as retention does."""
        self.log_start = max(self.log_start, min(offset, self.high_watermark))
        del self._records[: self._index(self.log_start)]

    def compact(self, *, tombstones: bool = False) -> None:
        """Keep each key's newest committed record, of what is stable; others leave gaps.

        With `tombstones` those go too, as they do after `delete.retention.ms`.
        """
        end = self.last_stable_offset
        newest = {
            one.key: one.offset
            for one in self._records
            if one.offset < end and one.kind == "record" and not one.is_aborted
        }
        self._records = [
            one
            for one in self._records
            if one.offset >= end
            or (newest.get(one.key) == one.offset and not (tombstones and one.value is None))
        ]

    def _append(
        self,
        at_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        producer_id: int | None = None,
        kind: Kind = "record",
    ) -> StoredRecord:
        topic, partition = self._where
        record = StoredRecord(
            topic, partition, self.high_watermark, at_ms, key, value, headers, producer_id, kind
        )
        self._records.append(record)
        self.high_watermark += 1
        return record

    def _index(self, offset: int) -> int:
        return bisect_left(self._records, offset, key=lambda record: record.offset)
