r"""What aiokafka does wrong with what it fetched: header names that are not UTF-8, and memory.

A broker takes any bytes for a header's name. aiokafka raises `UnicodeDecodeError` in the middle of
a fetch, again at each try, and everything behind that record on its partition would wait for ever.
Here such a batch is parsed a second time, by aiokafka's own parser in Python, with each wrong byte
written as `\xff` and the like; all others take the quick way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import proxy

from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

__all__ = ["free_fetches", "tolerate_header_names"]

_LENGTH_AT = 8
_LENGTH_END = 12


def tolerate_header_names() -> None:
    """Have every aiokafka consumer of this process read such batches; may be called again."""
    fetcher.MemoryRecords = _TolerantRecords


class _Name(bytearray):
    def decode(self, encoding: str = "utf-8", _errors: str = "strict") -> str:
        return bytes(self).decode(encoding, "backslashreplace")


class _Buffer(bytearray):
    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Name(found) if isinstance(at, slice) else found


class _LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """aiokafka's batch in Python; what it cuts out of its buffer decodes whatever it holds."""

    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        if not isinstance(self._buffer, _Buffer):
            self._buffer = _Buffer(self._buffer)


class _TolerantBatch:
    """A batch of the quick parser, and its bytes for the case that it cannot read them."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            return iter(list(_LenientBatch(bytes(self._raw))))


class _TolerantRecords:
    """The batches of one fetched partition."""

    def __init__(self, raw: bytes) -> None:
        self._records = MemoryRecords(raw)
        self._raw = memoryview(raw)
        self._at = 0

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> _TolerantBatch:
        batch = self._records.next_batch()
        length = int.from_bytes(self._raw[self._at + _LENGTH_AT : self._at + _LENGTH_END], "big")
        begin, self._at = self._at, self._at + _LENGTH_END + length
        return _TolerantBatch(batch, self._raw[begin : self._at])


def free_fetches() -> None:
    """Have every aiokafka consumer of this process let go; may be called again."""
    fetcher.PartitionRecords = _FreedRecords


class _FreedRecords(PartitionRecords):  # type: ignore[misc]
    """What was fetched, freed as soon as nobody reads on in it, not with the next collection.

    aiokafka's own holds a generator of its own method, and that holds it: whoever reads a part of
    what was fetched, and then from another place, leaves up to a megabyte to the garbage collector.
    That counts objects, not bytes, and a worker has it called seldom.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        getattr(self, "_records_iterator")  # noqa: B009  a rename in aiokafka must fail here
        self._records_iterator = PartitionRecords._unpack_records(proxy(self))  # noqa: SLF001
