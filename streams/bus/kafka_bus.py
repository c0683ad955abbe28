"""The event bus on Kafka."""

from __future__ import annotations

from millstream.streams.bus.api import BusHooks
from millstream.streams.bus.kafka import KafkaLog
from millstream.streams.bus.log_bus import LogBus
from millstream.streams.settings import Settings

__all__ = ["KafkaBus"]


class KafkaBus(LogBus):
    """One idempotent producer and one consumer, however many subscriptions there are.

    Create the topics first (`streams.broker.topic_admin.ensure_topics`): the bus creates none.
    """

    def __init__(self, settings: Settings, hooks: BusHooks | None = None) -> None:
        super().__init__(settings, KafkaLog(settings), hooks or BusHooks())
