"""Reading what a compacted topic holds: the newest record of each key, as a reader of history does.

Unlike a lane, it does not wait for transactions that are open: what they bring comes later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from millstream.schemas.errors import Poison
from millstream.schemas.topics import TopicSpec
from millstream.streams.broker.read_clients import RECORDS_AT_ONCE
from millstream.streams.bus.api import BEGINNING, NOW, EventFilter
from millstream.streams.bus.record_log import RecordLog, scope_of
from millstream.streams.settings import Settings
from millstream.streams.wire.records import LogRecord

__all__ = ["newest_of"]

T = TypeVar("T")

_READ_WAIT_S = 0.1


async def newest_of(
    log: RecordLog,
    settings: Settings,
    spec: TopicSpec,
    wanted: EventFilter,
    parse: Callable[[LogRecord], T],
) -> tuple[list[T], int]:
    """Give what `parse` makes of each key's newest record, and how many it could not read.

    `parse` says so by `Poison` or `ValidationError`. Only the home partition is read where the user
    is known. Raises `ServiceUnavailable`, and `Misconfigured` for a topic that does not exist.
    """
    counts = await log.partition_counts({settings.topic(spec.name)})
    scope = scope_of(settings, (spec,), wanted, counts)
    found: dict[bytes | None, T | None] = {}
    reader = log.reader()
    try:
        await reader.start()
        starts = await reader.offsets(scope, BEGINNING)
        ends = await reader.offsets(scope, NOW)
        unread = {one for one in scope if starts[one] < ends[one]}
        reader.assign({one: starts[one] for one in unread}, ends)
        while unread:
            read = await reader.read(unread, records_max=RECORDS_AT_ONCE, wait_s=_READ_WAIT_S)
            for partition, records in read.items():
                for record in records:
                    if record.offset < ends[partition]:
                        _take(found, record, parse)
            for partition in tuple(unread):
                if await reader.position(partition) >= ends[partition]:
                    unread.discard(partition)
                    reader.pause(partition)
    finally:
        await reader.stop()
    known = [one for one in found.values() if one is not None]
    return known, len(found) - len(known)


def _take(
    found: dict[bytes | None, T | None], record: LogRecord, parse: Callable[[LogRecord], T]
) -> None:
    found.pop(record.key, None)
    if record.value is None:
        return
    try:
        found[record.key] = parse(record)
    except (Poison, ValidationError):
        found[record.key] = None
