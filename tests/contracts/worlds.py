"""Where buses, readers and replays run in the contracts: on Kafka, or over a broker in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from millstream.schemas.base import Address
from millstream.schemas.topics import BASE_TOPICS, TopicSpec
from millstream.streams.broker.clients import connecting
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.api import BusHooks
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.bus.memory import MemoryBus, MemoryLog
from millstream.streams.bus.record_log import Entry
from millstream.streams.history.replay import HistoryQuery, read_history, replay
from millstream.streams.settings import Settings
from tests.services.users import acting_as

__all__ = ["KafkaWorld", "MemoryWorld"]

Headers = tuple[tuple[str, bytes], ...]


class KafkaWorld:
    """Topics on Kafka."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    async def created(cls, settings: Settings) -> KafkaWorld:
        """Give one whose topics are there."""
        await ensure_topics(settings, BASE_TOPICS)
        return cls(settings)

    def bus(self, hooks: BusHooks | None = None) -> KafkaBus:
        """Make another bus, as another process would, not started."""
        return KafkaBus(self.settings, hooks)

    async def put(
        self,
        spec: TopicSpec,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
    ) -> Address:
        """Append any bytes."""
        topic = self.settings.topic(spec.name)
        async with AIOKafkaProducer(**connecting(self.settings)) as producer:
            sent = await producer.send_and_wait(
                topic, value, key, partition=partition, headers=list(headers)
            )
        return Address(topic=topic, partition=partition, offset=sent.offset)

    def replay(self, query: HistoryQuery) -> AsyncIterator[Entry]:
        """Replay what is there."""
        return read_history(acting_as(self.settings, "auditor"), query)

    async def delete(self, topic: str, partition: int, before: int) -> None:
        """Delete a partition's oldest records, as retention does."""
        admin = AIOKafkaAdminClient(**connecting(self.settings))
        await admin.start()
        try:
            where = TopicPartition(self.settings.topic(topic), partition)
            await admin.delete_records({where: RecordsToDelete(before_offset=before)})
        finally:
            await admin.close()


class MemoryWorld:
    """Topics of a broker in memory."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings(namespace="memory")
        self.broker = MemoryBroker(self.settings)
        self.broker.create_topics(BASE_TOPICS)

    def bus(self, hooks: BusHooks | None = None) -> MemoryBus:
        """Make another bus, as another process would, not started."""
        return MemoryBus(self.settings, self.broker, hooks)

    async def put(
        self,
        spec: TopicSpec,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
    ) -> Address:
        """Append any bytes."""
        target = TopicPartition(self.settings.topic(spec.name), partition)
        return self.broker.append(target, key, value, headers)

    def replay(self, query: HistoryQuery) -> AsyncIterator[Entry]:
        """Replay what is there."""
        return replay(MemoryLog(self.broker), self.settings, query)
