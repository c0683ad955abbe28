"""Whether what a restore read is all that it needed: what retention or compaction took from it.

Retention removes, in every deployment, records that are older than the window: nothing is wrong
with that. It matters only if what was removed may lie behind a snapshot's position or in the
window. Nobody can ask the broker when a removed record was written; but a record that stands is
younger than all that were removed before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import TopicPartition

from millstream.schemas.dead_letters import BatchUnreadable, NewerSchema
from millstream.schemas.errors import HistoryGone, Poison
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.state.folds import Begin, Source
from millstream.streams.topic_settings.retention import Retention
from millstream.streams.wire.codec import decode

log = structlog.get_logger(__name__)

_WHAT_TO_DO = (
    "restore up to a later offset, or from a copy of the log; what is to be verified for longer "
    "needs a longer `retention.ms` on this topic"
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a restore read of a topic: all before `end`, from where its source begins."""

    source: Source
    where: TopicPartition
    end: int


@dataclass(frozen=True, slots=True)
class Base:
    """The snapshot that a restore began with: its position in each log, and its age."""

    logs: Mapping[str, int]
    age_ms: int


def up_to(
    upto: Mapping[str, int], found: Mapping[str, tuple[TopicPartition, int]]
) -> dict[str, int]:
    """Give the offsets in `upto` of the topics in `found`, which have their high watermarks.

    Raises `HistoryGone` for an offset behind the log's end: the log was truncated, or is another.
    """
    for name, (where, high_watermark) in found.items():
        wanted = upto.get(name, high_watermark)
        if wanted > high_watermark:
            raise _gone(
                where,
                wanted,
                high_watermark,
                f"the log ends at {high_watermark}, before the offset {wanted} up to which it is "
                "to be read: it was truncated, or it is another log; look for an unclean leader "
                "election, or for the cluster that the offset was taken from",
            )
    return {name: end for name, end in upto.items() if name in found}


async def removed(
    reader: PartitionReader,
    stretches: tuple[Stretch, ...],
    *,
    base: Base | None,
    needed_ms: int,
    is_proof_wanted: bool,
    retention: Retention,
) -> tuple[HistoryGone, ...]:
    """Give what was removed that a restore may have needed; call it when all was read.

    What was written before `needed_ms` decides nothing. `is_proof_wanted`: the first gap is raised
    as `HistoryGone`, and what cannot be shown to be whole counts as a gap. Else what the topics'
    own retention explains is no gap: it is longer than any window. So only what was written behind
    a snapshot that is younger than that can be found missing. Not found, either way: the beginning
    of a log that is read from its beginning, where no snapshot says that it began earlier.
    """
    if base is None and not is_proof_wanted:
        return ()
    starts = await reader.log_start_offsets([one.where for one in stretches])
    gone: list[HistoryGone] = []
    for one in stretches:
        is_whole = one.source.begin is Begin.WHOLE
        if is_proof_wanted and (is_whole or one.source.spec.is_compacted):
            error = await _compacted(reader, one, starts[one.where], retention)
        elif is_whole:
            continue
        else:
            position = None if base is None else base.logs[one.source.spec.name]
            retention_ms = retention.ms(one.source.spec) or 0
            if not is_proof_wanted and base is not None and base.age_ms > retention_ms:
                continue
            error = await _truncated(reader, one, position, starts[one.where], needed_ms)
        if error is None:
            continue
        if is_proof_wanted:
            raise error
        log.warning("records were removed that no snapshot knows", reason=str(error))
        gone.append(error)
    return tuple(gone)


async def _truncated(
    reader: PartitionReader, one: Stretch, position: int | None, start: int, needed_ms: int
) -> HistoryGone | None:
    """Tell whether records before a log's start were behind the position or in the window."""
    wanted = position or 0
    # Behind the last record that a snapshot knows stands the marker of its transaction.
    begins_by = 0 if position is None else position + 1
    if start <= begins_by or wanted >= one.end:
        return None
    if position is None and one.source.begin is Begin.LOG and start < one.end:
        return None  # its retention is its window
    if await _is_older(reader, one, start, needed_ms):
        return None
    needed = "those behind the snapshot" if position is not None else "those of the window"
    return _gone(
        one.where,
        wanted,
        start,
        f"the log begins at {start}: records from {wanted} on were removed, and {needed} may be "
        f"among them; {_WHAT_TO_DO}",
    )


async def _is_older(reader: PartitionReader, one: Stretch, start: int, needed_ms: int) -> bool:
    """Tell whether the first record that stands says that all before it came before the window."""
    async with aclosing(reader.read({one.where: one.end}, from_offset=start)) as records:
        async for record in records:
            return bool(record.timestamp < needed_ms)
    return False


async def _compacted(
    reader: PartitionReader, one: Stretch, start: int, retention: Retention
) -> HistoryGone | None:
    """Tell whether of some key the newest record before the end may have been removed.

    Compaction removes a record only once its key has a newer one. So it can be missed only where
    the first record that stands of a key comes at or after the end, and had one before it. Offsets
    tell nothing: markers of transactions leave gaps, too. What retention has removed counted for
    no longer than that before the newest record; up to the log's end it counts no more.
    """
    high_watermark = (await reader.high_watermarks([one.where]))[one.where]
    retention_ms = retention.ms(one.source.spec)
    if one.end >= high_watermark and (not start or retention_ms is not None):
        return None
    known: set[bytes | None] = set()
    first_ms: int | None = None
    newest_ms = 0
    async with aclosing(reader.read({one.where: high_watermark})) as records:
        async for record in records:
            if record.offset < one.end:
                known.add(record.key)
                first_ms = record.timestamp if first_ms is None else first_ms
                newest_ms = record.timestamp
            elif record.key not in known:
                known.add(record.key)
                if _follows_another(one.source, record):
                    return _key_gone(one, record)
    counts_from_ms = newest_ms - (retention_ms or newest_ms)
    if not start or (first_ms is not None and first_ms < counts_from_ms):
        return None
    return _gone(
        one.where,
        0,
        start,
        f"the log begins at {start}: keys that counted at {one.end} may have been removed before "
        f"it; {_WHAT_TO_DO}",
    )


def _follows_another(source: Source, record: Any) -> bool:
    if record.value is None:
        return True
    try:
        return source.follows_another(decode(record, source.spec.event))
    except (NewerSchema, BatchUnreadable):
        return True  # not known, so it may
    except Poison:
        return False  # a foreign record, which decides nothing


def _key_gone(one: Stretch, record: Any) -> HistoryGone:
    return _gone(
        one.where,
        one.end,
        record.offset,
        f"the key {record.key!r} was written before offset {record.offset}, and that record is "
        f"compacted away: what the key held at {one.end} is not known; a compacted topic can be "
        "read as of an earlier offset only until it is compacted, so restore up to its end",
    )


def _gone(where: TopicPartition, wanted: int, oldest: int, message: str) -> HistoryGone:
    return HistoryGone(
        message, topic=where.topic, partition=where.partition, wanted=wanted, oldest=oldest
    )
