"""Whether the logs still have what the lanes' groups have committed that they are to read next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from millstream.schemas.topics import DECISIONS, REQUESTS
from millstream.streams.broker.clients import admin_client, ends_consumer, not_reached
from millstream.streams.consumer.offset_gaps import OffsetGap
from millstream.streams.settings import Settings

__all__ = ["committed_gaps", "gaps_between"]


async def committed_gaps(settings: Settings) -> tuple[OffsetGap, ...]:
    """Give the partitions that lanes cannot read on where they stood, if they restarted now.

    So are those of `requests` of which nothing is committed though something was decided on: their
    offsets are gone, or their very first requests still run. Raises `ServiceUnavailable`.
    """
    admin, consumer = admin_client(settings), ends_consumer(settings)
    groups = (f"{settings.namespace}-lanes", *_stage_groups(settings))
    found: list[OffsetGap] = []
    try:
        await admin.start()
        await consumer.start()
        for group in groups:
            offsets = await admin.list_consumer_group_offsets(group)
            committed = {where: one.offset for where, one in offsets.items() if one.offset >= 0}
            if committed:
                begins = await consumer.beginning_offsets(list(committed))
                ends = await consumer.end_offsets(list(committed))
                found += gaps_between(committed, begins, ends)
            if group == groups[0]:
                found += await _gone(settings, admin, consumer, committed)
    except (KafkaError, TimeoutError) as error:
        raise not_reached(settings, error) from error
    finally:
        await consumer.stop()
        await admin.close()
    return tuple(found)


async def _gone(
    settings: Settings,
    admin: AIOKafkaAdminClient,
    consumer: AIOKafkaConsumer,
    committed: Mapping[TopicPartition, int],
) -> list[OffsetGap]:
    requests, decisions = settings.topic(REQUESTS.name), settings.topic(DECISIONS.name)
    described = await admin.describe_topics([requests, decisions])
    # A topic that is missing is told by the check of topics.
    numbers = range(min(len(topic["partitions"]) for topic in described))
    missing = {number for number in numbers if TopicPartition(requests, number) not in committed}
    if not missing:
        return []
    ends = await consumer.end_offsets([TopicPartition(decisions, number) for number in missing])
    decided = [TopicPartition(requests, where.partition) for where, end in ends.items() if end]
    begins = await consumer.beginning_offsets(decided) if decided else {}
    return [
        OffsetGap(where.topic, where.partition, None, begin)
        for where, begin in sorted(begins.items())
    ]


def _stage_groups(settings: Settings) -> Iterable[str]:
    return (f"{settings.namespace}-lanes-{cut}" for cut in settings.chain_cuts)


def gaps_between(
    committed: Mapping[TopicPartition, int],
    begins: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> list[OffsetGap]:
    """Give the committed offsets before their log's beginning or beyond its end, in order."""
    return [
        OffsetGap(where.topic, where.partition, offset, begins[where])
        for where, offset in sorted(committed.items())
        if not begins[where] <= offset <= ends[where]
    ]
