"""Whether the logs still have what the lanes' groups have committed that they are to read next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from millstream.schemas.errors import ServiceUnavailable
from millstream.streams.broker.clients import admin_client, ends_consumer
from millstream.streams.consumer.offset_gaps import OffsetGap
from millstream.streams.settings import Settings

__all__ = ["committed_gaps", "gaps_between"]


async def committed_gaps(settings: Settings) -> tuple[OffsetGap, ...]:
    """Give the partitions that lanes cannot read on where they stood, if they restarted now.

    Raises `ServiceUnavailable`.
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
    except (KafkaError, TimeoutError) as error:
        message = f"Kafka does not answer at {settings.kafka}: {error}"
        raise ServiceUnavailable(message) from error
    finally:
        await consumer.stop()
        await admin.close()
    return tuple(found)


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
