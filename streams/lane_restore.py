"""Restoring a lane: after fencing, the fold of what its predecessors committed."""

from __future__ import annotations

import structlog
from aiokafka import TopicPartition

from schemas.errors import Poison
from schemas.topics import COSTS, DEAD_LETTERS, DECISIONS, LANES, RESULTS, SESSIONS, TopicSpec
from streams.codec import decode
from streams.lane_state import LaneState
from streams.partition_reader import PartitionReader
from streams.settings import Settings

log = structlog.get_logger(__name__)

WHOLE: tuple[TopicSpec, ...] = (LANES, SESSIONS)
"""Compacted topics, read from their beginning."""

TAIL: tuple[TopicSpec, ...] = (DECISIONS, COSTS, RESULTS, DEAD_LETTERS)
"""Logs, of which only the window is read in which request ids are one."""


async def restore(
    state: LaneState, reader: PartitionReader, settings: Settings, *, partition: int, now_ms: int
) -> int:
    """Fold partition `partition` of all topics that decide into `state`; give the records read.

    Call it only after the lane's last producer has fenced its predecessor. Raises `LaneLost` if
    an open transaction hides the end for too long.
    """
    since_ms = now_ms - settings.dedup_window_s * 1000
    count = 0
    for spec in (*WHOLE, *TAIL):
        where = TopicPartition(settings.topic(spec.name), partition)
        since = None if spec in WHOLE else since_ms
        async for record in reader.read([where], since_ms=since):
            count += 1
            if record.value is None:
                continue  # a tombstone of a compacted topic
            try:
                state.restore(decode(record, spec.event))
            except Poison as poison:
                # Only lanes write here: this is a foreign record, and it decides nothing.
                log.warning(
                    "foreign record passed over",
                    topic=where.topic,
                    partition=partition,
                    offset=record.offset,
                    reason=str(poison),
                )
    state.forget_before(since_ms)
    return count
