"""What a stage must learn live from another stage's lane: attempts, costs, and that runs ended."""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from millstream.schemas.errors import LaneLost
from millstream.streams.broker.partition_reader import Consumer
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.restore import fold_record
from millstream.streams.settings import Settings


class StageFollower:
    """Folds what another stage commits on `partition`, from where this one's restore ended.

    `positions` says by topic, without the namespace, what is folded: all that stands before.
    """

    def __init__(
        self,
        state: LaneState,
        settings: Settings,
        partition: int,
        since: Mapping[str, int],
        *,
        consumer: Consumer,
    ) -> None:
        self._state = state
        self._settings = settings
        self._partition = partition
        self._consumer = consumer
        self.positions = {spec.name: since[spec.name] for spec in state.folds.follows}

    async def run(self) -> None:
        """Follow for ever.

        Raises `LaneLost` if Kafka stops answering: a stage that learns nothing of spend decides
        wrong.
        """
        specs = {self._settings.topic(spec.name): spec for spec in self._state.folds.follows}
        consumer = self._consumer
        try:
            await consumer.start()
            places = {TopicPartition(topic, self._partition): specs[topic] for topic in specs}
            consumer.assign(list(places))
            for where, spec in places.items():
                consumer.seek(where, self.positions[spec.name])
            async for record in consumer:
                spec = specs[record.topic]
                fold_record(self._state, record, spec)
                self.positions[spec.name] = record.offset + 1
        except KafkaError as error:
            raise LaneLost(f"attempts, costs and results cannot be followed: {error!r}") from error
        finally:
            await consumer.stop()
