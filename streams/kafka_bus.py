"""The event bus on Kafka."""

from __future__ import annotations

from streams.bus import BusHooks
from streams.kafka_log import KafkaLog
from streams.log_bus import LogBus
from streams.settings import Settings

__all__ = ["KafkaBus"]


class KafkaBus(LogBus):
    """One idempotent producer and one consumer, however many subscriptions there are.

    Create the topics first (`streams.topic_admin.ensure_topics`): the bus creates none.
    """

    def __init__(self, settings: Settings, hooks: BusHooks | None = None) -> None:
        super().__init__(settings, KafkaLog(settings), hooks or BusHooks())
