"""Reading parked requests back: all that are open when a lane opens, then each when its turn comes.

A lane reads ahead, since requests that wait in line were mostly parked one after the other.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import aclosing
from typing import Any

from aiokafka import TopicPartition
from pydantic import ValidationError

from millstream.schemas.base import (
    SCHEMA_VERSION,
    Count,
    EpochMs,
    Frozen,
    Identifier,
    TenantName,
    Tries,
)
from millstream.schemas.errors import LaneLost, ServiceUnavailable
from millstream.schemas.lane_events import RunParked, TemplateWait
from millstream.streams.broker.compacted import newest_of_each
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.wire.codec import decode, require_known_version, trace_of
from millstream.streams.wire.keys import RequestKey, SessionKey
from millstream.streams.wire.trace import Trace

STRETCH_RECORDS = 200
AHEAD_RECORDS_MAX = 5 * STRETCH_RECORDS
STRETCH_BYTES = 1024 * 1024
AHEAD_BYTES_MAX = 4 * STRETCH_BYTES


class _Decided(Frozen):
    request_digest: str | None = None


class _Asked(Frozen):
    template: str = ""
    deadline_ms: EpochMs | None = None


class ParkedHead(Frozen):
    """Of a parked request, what must be known while it waits."""

    schema_version: int = SCHEMA_VERSION
    tenant: TenantName
    user_id: Identifier
    request_id: Identifier
    session_id: Identifier
    request: _Asked = _Asked()
    decision: _Decided
    order: Count
    not_before_ms: EpochMs = 0
    undecided: bool = False
    waits_for: TemplateWait | None = None
    journal_from_ms: EpochMs = 0
    journal_steps: Tries = 0

    @property
    def journal_ms(self) -> int | None:
        """When its journal began, `None` where it has none, 0 where nobody said."""
        return self.journal_from_ms if self.journal_steps else None

    @property
    def key(self) -> RequestKey:
        """What makes the request one and the same."""
        return (self.tenant, self.user_id, self.request_id)

    @property
    def session(self) -> SessionKey:
        """What runs are serial by."""
        return (self.tenant, self.user_id, self.session_id)


def _head_of(record: Any) -> ParkedHead:
    """Read a head; raises `NewerSchema` for one of a newer version, `ValidationError` for none."""
    try:
        head = ParkedHead.model_validate_json(record.value)
    except ValidationError:
        decode(record, RunParked)  # raises `NewerSchema` for one of a newer shape
        raise
    require_known_version(head.schema_version)
    return head


class ParkedLog:
    """The records of one partition of `parked`."""

    def __init__(self, reader: PartitionReader, where: TopicPartition) -> None:
        self._reader = reader
        self._where = where
        self._end = 0
        self._ahead: OrderedDict[int, Any] = OrderedDict()
        self._ahead_bytes = 0
        self._lock = asyncio.Lock()

    async def open_set(self) -> list[tuple[int, ParkedHead]]:
        """Give what is parked, in order, each with the offset of its record.

        Raises `LaneLost` and `ServiceUnavailable` as the reader does.
        """
        found = await newest_of_each(self._reader, self._where, _head_of)
        for offset, _ in found:
            self.written(offset)
        return sorted(found, key=lambda each: each[1].order)

    def written(self, offset: int) -> None:
        """Hear that a request is parked at `offset`."""
        self._end = max(self._end, offset + 1)

    async def load(self, offset: int) -> tuple[RunParked, Trace]:
        """Give the request parked at `offset`, and its trace.

        Raises `Poison` for one that this version cannot read, and `LaneLost`.
        """
        async with self._lock:
            record = self._take(offset)
            if record is None:
                await self._read_on(offset)
                record = self._take(offset)
        if record is None:
            raise LaneLost(f"there is no parked request at {self._at(offset)}")
        return decode(record, RunParked), trace_of(record)

    async def _read_on(self, offset: int) -> None:
        end = min(self._end, offset + STRETCH_RECORDS)
        size = 0
        try:
            async with self._reader.lock:
                stretch = self._reader.read({self._where: end}, from_offset=offset)
                async with aclosing(stretch) as records:
                    async for record in records:
                        if record.value is None:  # a request that has ended
                            continue
                        self._keep(record)
                        size += len(record.value)
                        if size >= STRETCH_BYTES:
                            return
        except ServiceUnavailable as error:
            raise LaneLost(f"the request at {self._at(offset)} cannot be read: {error}") from error

    def _keep(self, record: Any) -> None:
        # Users take turns, each at a place of its own: what was read for one of them stays.
        self._take(record.offset)
        self._ahead[record.offset] = record
        self._ahead_bytes += len(record.value)
        while len(self._ahead) > AHEAD_RECORDS_MAX or self._ahead_bytes > AHEAD_BYTES_MAX:
            _, oldest = self._ahead.popitem(last=False)
            self._ahead_bytes -= len(oldest.value)

    def _take(self, offset: int) -> Any:
        record = self._ahead.pop(offset, None)
        if record is not None:
            self._ahead_bytes -= len(record.value)
        return record

    def _at(self, offset: int) -> str:
        return f"{self._where.topic}-{self._where.partition}-{offset}"
