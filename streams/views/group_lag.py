"""How far the views' group is behind its topics, as brokers know it: for whoever runs no views.

What a worker says of its own views is in `lag.py`. Here the group's committed offsets tell it,
which are half a second old at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import aclosing
from typing import NamedTuple

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from millstream.schemas.errors import LaneLost, MillstreamError
from millstream.schemas.topics import TopicSpec
from millstream.streams.broker.clients import admin_client, not_reached
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.rights.needed import COUNTED
from millstream.streams.settings import Settings

__all__ = ["GroupLag", "group_lags", "views_group"]

_STALL_S = 2.0

log = structlog.get_logger(__name__)


class GroupLag(NamedTuple):
    """What the views' group has yet to count of a topic, over all partitions.

    `records` are offsets: those of markers are among them. `oldest_ms` is when the first of them
    arrived, by its broker's clock.
    """

    records: int
    oldest_ms: int


def views_group(settings: Settings) -> str:
    """Give the name of the views' consumer group."""
    return f"{settings.namespace}-views"


async def group_lags(
    settings: Settings, specs: Iterable[TopicSpec] = COUNTED
) -> dict[str, GroupLag] | None:
    """Give by topic, without the namespace, what the views' group has yet to count of it.

    Topics of which all is counted are left out, and those that this user may not read; `None`: the
    group has never counted anything. Raises `ServiceUnavailable` where Kafka does not answer.
    """
    admin, reader = admin_client(settings), PartitionReader(settings)
    try:
        await admin.start()
        await reader.start()
        offsets = await admin.list_consumer_group_offsets(views_group(settings))
        committed = {TopicPartition(*at): one.offset for at, one in offsets.items()}
        if not committed:
            return None
        lags: dict[str, GroupLag] = {}
        for spec in specs:
            topic = settings.topic(spec.name)
            places = [TopicPartition(topic, number) for number in range(settings.partitions)]
            try:
                lag = await _lag(reader, committed, await reader.high_watermarks(places))
            except MillstreamError as error:
                log.info("a topic's lag is not known", topic=topic, reason=str(error))
                continue
            if lag is not None:
                lags[spec.name] = lag
    except (KafkaError, TimeoutError) as error:
        raise not_reached(settings, error) from error
    else:
        return lags
    finally:
        await reader.stop()
        await admin.close()


async def _lag(
    reader: PartitionReader,
    committed: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> GroupLag | None:
    records, oldest_ms = 0, None
    for where, end in ends.items():
        begin = max(0, committed.get(where, 0))
        first_ms = await _first_ms(reader, where, begin, end) if begin < end else None
        if first_ms is not None:
            records += end - begin
            oldest_ms = first_ms if oldest_ms is None else min(oldest_ms, first_ms)
    return None if oldest_ms is None else GroupLag(records, oldest_ms)


async def _first_ms(
    reader: PartitionReader, where: TopicPartition, begin: int, end: int
) -> int | None:
    """Give when the first record of a stretch arrived; `None`: there are markers alone."""
    try:
        async with aclosing(
            reader.read({where: end}, from_offset=begin, stall_timeout_s=_STALL_S)
        ) as records:
            async for record in records:
                return int(record.timestamp)
    except LaneLost:
        return None  # nobody can read yet what an open transaction holds back
    return None
