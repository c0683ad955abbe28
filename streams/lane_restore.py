"""Restoring a lane: after fencing, the fold of what its predecessors committed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import TopicPartition

from schemas.errors import Poison
from schemas.events import LaneOpened
from schemas.topics import (
    ATTEMPTS,
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    LANES,
    RESULTS,
    SESSIONS,
    TopicSpec,
)
from streams.codec import decode
from streams.lane_state import LaneState
from streams.partition_reader import PartitionReader
from streams.settings import Settings

log = structlog.get_logger(__name__)

WHOLE: tuple[TopicSpec, ...] = (LANES, SESSIONS)
"""Compacted topics, read from their beginning."""

TAIL: tuple[TopicSpec, ...] = (DECISIONS, ATTEMPTS, COSTS, RESULTS, DEAD_LETTERS)
"""Logs, of which only the window is read in which request ids are one."""


@dataclass(frozen=True, slots=True)
class Restored:
    """How far a restore read: records in all, and the end of each partition."""

    records: int
    ends: dict[TopicPartition, int]


async def producers_announced(
    reader: PartitionReader, settings: Settings, *, stage: str, partition: int
) -> int:
    """Give the number of producers that the newest owner announced to write with.

    An owner announces itself by its first transaction, of its first producer. So call it once that
    one is fenced: whoever has announced nothing yet will never write.
    """
    where = TopicPartition(settings.topic(LANES.name), partition)
    producers = 0
    async for record in reader.read(await reader.ends([where])):
        with suppress(Poison):
            opened = decode(record, LaneOpened)
            if opened.stage == stage:
                producers = opened.producers
    return producers


async def restore(
    state: LaneState, reader: PartitionReader, settings: Settings, *, partition: int, now_ms: int
) -> Restored:
    """Fold partition `partition` of all topics that decide into `state`.

    Call it only after the lane's last producer has fenced its predecessor. Raises `LaneLost` if
    an open transaction hides the end for too long.
    """
    window_ms = max(settings.dedup_window_s * 1000, state.pipeline.history_ms)
    places = {
        TopicPartition(settings.topic(spec.name), partition): spec for spec in (*WHOLE, *TAIL)
    }
    ends = await reader.ends(places)
    # After a long stop the newest decision is what the next requests in line came after.
    decisions = TopicPartition(settings.topic(DECISIONS.name), partition)
    newest_ms = await reader.newest_ms(decisions, ends[decisions])
    since_ms = min(now_ms, now_ms if newest_ms is None else newest_ms) - window_ms
    count = 0
    # One topic after the other: decisions are folded before what settles them.
    for where, spec in places.items():
        from_ms = None if spec in WHOLE else since_ms
        async for record in reader.read({where: ends[where]}, since_ms=from_ms):
            count += 1
            fold_record(state, record, spec)
    state.in_order_of_time()
    state.forget_before(since_ms)
    return Restored(count, ends)


def fold_record(state: LaneState, record: Any, spec: TopicSpec) -> None:
    """Fold one record that was read back."""
    if record.value is None:
        return  # a tombstone of a compacted topic
    try:
        state.restore(decode(record, spec.event))
    except Poison as poison:
        # Only lanes write here: this is a foreign record, and it decides nothing.
        log.warning(
            "foreign record passed over",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=str(poison),
        )
