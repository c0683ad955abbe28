"""Reading a compacted partition: the newest record of each key, but for what was forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from aiokafka import TopicPartition
from pydantic import ValidationError

from millstream.schemas.dead_letters import BatchUnreadable, NewerSchema
from millstream.schemas.errors import LaneOutdated, Poison
from millstream.streams.broker.partition_reader import PartitionReader

log = structlog.get_logger(__name__)

T = TypeVar("T")


async def newest_of_each(
    reader: PartitionReader, where: TopicPartition, parse: Callable[[Any], T]
) -> list[tuple[int, T]]:
    """Give what `parse` makes of each key's newest record, with its offset, in their order.

    What it cannot read, it says by `Poison` or `ValidationError`. Raises as the reader does, and
    `LaneOutdated` as `pass_over` does.
    """
    found: dict[bytes | None, tuple[int, T]] = {}
    async for record in reader.read(await reader.high_watermarks([where])):
        found.pop(record.key, None)
        if record.value is None:
            continue
        try:
            found[record.key] = (record.offset, parse(record))
        except (Poison, ValidationError) as error:
            pass_over(record, error)
    return list(found.values())


def pass_over(record: Any, error: Exception) -> None:
    """Say that a record was not taken in: only lanes write there, so it is a foreign one.

    So is a batch that is larger than lanes write. Raises `LaneOutdated` for a record of a newer
    version, and for a batch that is corrupt: a lane may have written it, and it counts.
    """
    refuse_newer(record, error)
    log.warning(
        "foreign record passed over",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        reason=str(error),
    )


def refuse_newer(record: Any, error: Exception) -> None:
    """Raise `LaneOutdated` if `error` tells of a newer version, or of a batch that is corrupt."""
    if isinstance(error, NewerSchema | BatchUnreadable):
        place = f"{record.topic}-{record.partition}-{record.offset}"
        raise LaneOutdated(f"not served, since {place} cannot be read: {error}") from error
