"""What a stage must learn live from another stage's lane: attempts, costs, and that runs ended."""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from schemas.errors import LaneLost
from schemas.topics import ATTEMPTS, COSTS, RESULTS
from streams.clients import committed_consumer
from streams.lane_restore import fold_record
from streams.lane_state import LaneState
from streams.settings import Settings


async def follow(
    state: LaneState, settings: Settings, partition: int, since: Mapping[TopicPartition, int]
) -> None:
    """Fold the partition's attempts, costs and results into `state`, for ever.

    It goes on from where the restore ended.

    Raises `LaneLost` if Kafka stops answering: a stage that learns nothing of spend decides wrong.
    """
    specs = {
        TopicPartition(settings.topic(spec.name), partition): spec
        for spec in (ATTEMPTS, COSTS, RESULTS)
    }
    consumer = committed_consumer(settings)
    try:
        await consumer.start()
        consumer.assign(list(specs))
        for where in specs:
            consumer.seek(where, since[where])
        async for record in consumer:
            fold_record(state, record, specs[TopicPartition(record.topic, record.partition)])
    except KafkaError as error:
        raise LaneLost(f"attempts, costs and results cannot be followed: {error!r}") from error
    finally:
        await consumer.stop()
