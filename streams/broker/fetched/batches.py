"""The batches of a fetched partition, each read whole or not at all.

Brokers check what producers send; what stands on a disk, or comes through a network, nobody has
checked. aiokafka raises for a batch that it cannot read, again at each try, and everything behind
it on its partition waits for ever. Here such a batch is one record that says so (`UnreadBatch`).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint_py
from aiokafka.structs import ConsumerRecord

from millstream.schemas.base import EPOCH_MS_MAX
from millstream.streams.broker.fetched.parts import (
    PART_BYTES,
    CannotPart,
    parts_of,
)
from millstream.streams.broker.fetched.unpacking import CannotUnpack, unpacked
from millstream.streams.wire.sizes import HEADERS_READ_MAX
from millstream.streams.wire.unread import UnreadBatch

__all__ = ["RECORDS_MAX", "FetchedBatches", "Refetches", "records_of"]

RECORDS_MAX = 1_000_000
"""Most records in a batch: as many as librdkafka can be told to put into one."""

FETCHES_MAX = 3
"""Fetches of a batch that is not as it was sent, until it counts as unreadable."""

_READ_COMMITTED = 1

_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH_END = 12
_CODEC, _TRANSACTIONAL, _CONTROL = 0x07, 0x10, 0x20
_MAGIC = 2


class _Unreadable(Exception):
    def __init__(self, problem: str, *, is_foreign: bool = False) -> None:
        super().__init__(problem)
        self.is_foreign = is_foreign


class _Header(NamedTuple):
    base_offset: int
    length: int
    epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: int


_NO_HEADER = _Header(*[0] * len(_Header._fields))


class _Name(bytearray):
    def decode(self, encoding: str = "utf-8", _errors: str = "strict") -> str:
        return bytes(self).decode(encoding, "backslashreplace")


class _Buffer(bytearray):
    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Name(found) if isinstance(at, slice) else found


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    r"""aiokafka's batch in Python; what it cuts out of its buffer decodes whatever it holds.

    A broker takes any bytes for a header's name. Each wrong byte is written as `\xff` and the like.
    """

    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        self._buffer = _Buffer(self._buffer)

    def _read_msg(self, _decode_varint: Any = None) -> Any:
        # aiokafka's quick one reads whatever memory a length that lies leads it to.
        return super()._read_msg(decode_varint_py)


class _Batch:
    """One batch as it was fetched, or what is left of one."""

    def __init__(self, raw: memoryview) -> None:
        self._raw = raw
        self.fault: str | None = None
        """Why it is not as it was sent, `None` if it is."""
        if len(raw) < _HEADER.size:
            self.header, self.fault = _NO_HEADER, "it is cut off"
            return
        self.header = header = _Header(*_HEADER.unpack_from(raw))
        if len(raw) != _LENGTH_END + header.length:
            self.fault = "it is cut off"
        elif header.magic != _MAGIC:
            self.fault = f"it is of format {header.magic}, which is not read"
        elif not DefaultRecordBatch(raw).validate_crc():
            self.fault = "its checksum is wrong"
        elif header.last_offset_delta < 0:
            self.fault = "it ends before it begins"

    def last_offset(self, position: int) -> int:
        """Give the last of its offsets, as far as that is known, but none before `position`."""
        header = self.header
        # No checksum covers what is cut off: its two tellings of how long it is must agree.
        count = header.last_offset_delta + 1
        if self.fault is not None and not header.records == count <= RECORDS_MAX:
            return position
        return max(position, header.base_offset + max(0, header.last_offset_delta))

    def records(self) -> Iterable[Any]:
        """Give its records; raises `_Unreadable` before the first if any cannot be read."""
        raw, header = self._raw, self.header
        if not 0 <= header.records <= RECORDS_MAX:
            raise _Unreadable(
                f"it says that it holds {header.records} records",
                is_foreign=header.records > RECORDS_MAX,
            )
        if kind := header.attributes & _CODEC:
            try:
                data = unpacked(kind, bytes(raw[_HEADER.size :]))
            except CannotUnpack as error:
                raise _Unreadable(str(error), is_foreign=error.is_too_large) from error
            plain = header._replace(
                attributes=header.attributes & ~_CODEC,
                length=_HEADER.size - _LENGTH_END + len(data),
            )
            raw = memoryview(_HEADER.pack(*plain) + data)
            del data
        try:
            return self._read(DefaultRecordBatch, raw)
        except UnicodeDecodeError:
            return self._read(_LenientBatch, raw)

    def _read(self, kind: Any, raw: memoryview) -> Iterable[Any]:
        """Read all records once; a large batch's are read again as they are asked for.

        Raises `UnicodeDecodeError` for a header's name that is no text, and `_Unreadable`.
        """
        try:
            if len(raw) <= PART_BYTES:
                records: list[Any] = list(kind(raw))
                for record in records[:1] + records[-1:]:
                    self._require_inside(record.offset)
                return records
            parts = tuple(parts_of(raw[_HEADER.size :], self.header.records))
            for record in self._in_parts(kind, parts):
                self._require_inside(record.offset)
        except (_Unreadable, UnicodeDecodeError, MemoryError):
            raise
        except CannotPart as error:
            raise _Unreadable(str(error), is_foreign=error.is_too_large) from error
        # A parser may raise anything for what nobody has checked.
        except Exception as error:
            raise _Unreadable(f"its records cannot be told apart: {error}") from error
        return self._in_parts(kind, parts)

    def _in_parts(self, kind: Any, parts: Iterable[tuple[memoryview, int]]) -> Iterator[Any]:
        header = self.header._replace(attributes=self.header.attributes & ~_CODEC)
        for part, count in parts:
            length = _HEADER.size - _LENGTH_END + len(part)
            head = header._replace(length=length, records=count)
            yield from kind(memoryview(_HEADER.pack(*head) + part))

    def _require_inside(self, offset: int) -> None:
        base = self.header.base_offset
        if not base <= offset <= base + self.header.last_offset_delta:
            raise _Unreadable(f"it has no offset {offset}, which one of its records says")


class FetchedBatches:
    """What was fetched of a partition: stands where aiokafka has its `MemoryRecords`."""

    def __init__(self, raw: bytes | None) -> None:
        self._raw = memoryview(raw or b"")
        self._at = 0

    def size_in_bytes(self) -> int:
        """Give the bytes that were fetched."""
        return len(self._raw)

    def has_next(self) -> bool:
        """Tell whether anything was fetched: a batch that is cut off, too, if it is the first."""
        return self._length() > 0

    def next_batch(self) -> _Batch | None:
        """Give the next batch, `None` behind the last whole one."""
        length = self._length()
        if not length:
            return None
        begin, self._at = self._at, self._at + length
        return _Batch(self._raw[begin : self._at])

    def _length(self) -> int:
        left = len(self._raw) - self._at
        if left >= _LENGTH_END:
            length_at = self._at + _LENGTH_END - 4
            length = int.from_bytes(self._raw[length_at : length_at + 4], "big", signed=True)
            if 0 <= length <= left - _LENGTH_END:
                return _LENGTH_END + length
        # Brokers cut off the last batch to fill a fetch, never the first (KIP-74).
        return 0 if self._at else left


class Refetches:
    """Counts fetches of batches that are not as they were sent: the next one may be.

    A bit may have flipped on the way, or the next leader of the partition may have it right.
    """

    _BATCHES_MAX = 1000

    def __init__(self) -> None:
        self._fetches: OrderedDict[tuple[TopicPartition, int], int] = OrderedDict()

    def once_more(self, where: TopicPartition, offset: int) -> bool:
        """Count a fetch in vain; tell whether to fetch again."""
        fetches = self._fetches.pop((where, offset), 0) + 1
        if fetches >= FETCHES_MAX:
            return False
        self._fetches[where, offset] = fetches
        if len(self._fetches) > self._BATCHES_MAX:
            self._fetches.popitem(last=False)
        return True


def records_of(fetch: Any, refetches: Refetches) -> Iterator[ConsumerRecord]:
    """Give the records of `fetch`, aiokafka's `PartitionRecords`, and move its position on.

    As `_unpack_records` does, which this stands for, but for what cannot be read. What was aborted
    is passed over unread under `read_committed`, and so are control batches.
    """
    where, batches = fetch._tp, fetch._records  # noqa: SLF001  it has no public way
    while (batch := batches.next_batch()) is not None:
        position = fetch.next_fetch_offset
        last, header = batch.last_offset(position), batch.header
        if batch.fault is not None:
            if not refetches.once_more(where, position):
                fetch.next_fetch_offset = last + 1
                yield _unread(where, position, last, 0, _Unreadable(batch.fault))
            # Which transactions were aborted is asked anew: it may have been a marker.
            return
        if not _is_passed_over(fetch, header):
            try:
                records = batch.records()
            except _Unreadable as error:
                fetch.next_fetch_offset = last + 1
                yield _unread(where, header.base_offset, last, header.max_timestamp, error)
                records = ()
            for record in records:
                if record.offset >= fetch.next_fetch_offset:  # else it was read before
                    fetch.next_fetch_offset = record.offset + 1
                    yield _given(fetch, where, record)
        # Behind the batch, not its last record: compaction may have removed that.
        behind = header.base_offset + header.last_offset_delta + 1
        fetch.next_fetch_offset = max(fetch.next_fetch_offset, behind)


def _given(fetch: Any, where: TopicPartition, record: Any) -> ConsumerRecord:
    """Give a record, or what says that it has more headers than are read."""
    if (headers := len(record.headers)) > HEADERS_READ_MAX:
        problem = f"a record has {headers} headers, at most {HEADERS_READ_MAX} are read"
        error = _Unreadable(problem, is_foreign=True)
        return _unread(where, record.offset, record.offset, record.timestamp, error)
    given: ConsumerRecord = fetch._consumer_record(where, record)  # noqa: SLF001
    return given


def _is_passed_over(fetch: Any, header: _Header) -> bool:
    """Tell whether a batch is a marker, or was aborted and only committed ones are read."""
    aborted = fetch._aborted_producers  # noqa: SLF001
    is_committed = fetch._isolation_level == _READ_COMMITTED  # noqa: SLF001
    if is_committed:
        fetch._consume_aborted_up_to(header.base_offset)  # noqa: SLF001
    if header.attributes & _CONTROL:
        # Whatever it says: a producer's next marker ends what that had aborted.
        aborted.discard(header.producer_id)
        return True
    is_of_transaction = bool(header.attributes & _TRANSACTIONAL)
    return is_committed and is_of_transaction and header.producer_id in aborted


def _unread(
    where: TopicPartition, first: int, last: int, at_ms: int, error: _Unreadable
) -> ConsumerRecord:
    value = UnreadBatch.of(first, last, str(error), is_foreign=error.is_foreign)
    at_ms = at_ms if 0 <= at_ms <= EPOCH_MS_MAX else 0
    return ConsumerRecord(
        where.topic, where.partition, last, at_ms, 1, None, value, None, -1, 0, ()
    )
