"""The two brokers that the contracts run on: one in memory, and the session's Kafka."""

from __future__ import annotations

from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete

from millstream.streams.broker.clients import admin_client, idempotent_producer
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.broker.partition_reader import PartitionReader, ReadClients
from millstream.streams.broker.read_clients import KafkaReadClients
from millstream.streams.broker.renewed_producer import RenewedProducer
from millstream.streams.settings import Settings
from millstream.streams.transactions.guarded_producer import GuardedProducer, guarded_producer
from millstream.streams.transactions.producers import TransactionalProducer
from tests.contracts.log_world import PRODUCE_BYTES_SMALL
from tests.services.users import plaintext

_LATENCY_S = 0.003


class MemoryWorld:
    """A broker in memory that takes a moment to answer, so that there is time in between."""

    short_s = 0.05
    timeout_s = 0.3

    def __init__(self) -> None:
        self.settings = Settings(namespace="memory")
        self.broker = MemoryBroker(self.settings, latency_s=_LATENCY_S)

    async def create(
        self,
        name: str,
        *,
        is_small: bool = False,
        is_compacted: bool = False,  # noqa: ARG002  the broker in memory compacts when it is told to
        partitions: int = 1,
    ) -> TopicPartition:
        topic = self.settings.topic(name)
        limit = {"batch_bytes_max": PRODUCE_BYTES_SMALL} if is_small else {}
        self.broker.create_topic(topic, partitions, **limit)
        return TopicPartition(topic, 0)

    async def delete_before(self, where: TopicPartition, offset: int) -> None:
        self.broker.delete_before(where, offset)

    def read_clients(self) -> ReadClients:
        return MemoryClients(self.broker)

    def read_clients_of_nobody(self) -> ReadClients:
        nobody = MemoryBroker(self.settings)
        nobody.go_away()
        return MemoryClients(nobody)

    def reader(self, clients: ReadClients | None = None) -> PartitionReader:
        return PartitionReader(self.settings, clients or self.read_clients())

    def producer(self, transactional_id: str) -> TransactionalProducer:
        return MemoryClients(self.broker).transactional_producer(transactional_id)

    def plain_producer(self) -> Any:
        return MemoryClients(self.broker).plain_producer()

    def renewed_producer(self) -> RenewedProducer:
        return RenewedProducer(self.plain_producer)


class KafkaWorld:
    """The session's Kafka, in a namespace of the test's own."""

    short_s = 0.5
    timeout_s = 2.0

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def create(
        self, name: str, *, is_small: bool = False, is_compacted: bool = False, partitions: int = 1
    ) -> TopicPartition:
        topic = self.settings.topic(name)
        configs = {"message.timestamp.type": "LogAppendTime"}
        if is_small:
            configs["max.message.bytes"] = str(PRODUCE_BYTES_SMALL)
        if is_compacted:
            configs["cleanup.policy"] = "compact"
        admin = admin_client(self.settings)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=configs)])
        finally:
            await admin.close()
        return TopicPartition(topic, 0)

    async def delete_before(self, where: TopicPartition, offset: int) -> None:
        admin = admin_client(self.settings)
        await admin.start()
        try:
            await admin.delete_records({where: RecordsToDelete(before_offset=offset)})
        finally:
            await admin.close()

    def read_clients(self) -> ReadClients:
        return KafkaReadClients(self.settings)

    def read_clients_of_nobody(self) -> ReadClients:
        return KafkaReadClients(plaintext(self.settings, kafka="127.0.0.1:1"))

    def reader(self, clients: ReadClients | None = None) -> PartitionReader:
        return PartitionReader(self.settings, clients)

    def producer(self, transactional_id: str) -> GuardedProducer:
        return guarded_producer(self.settings, f"{self.settings.namespace}-{transactional_id}")

    def plain_producer(self) -> Any:
        return idempotent_producer(self.settings)

    def renewed_producer(self) -> RenewedProducer:
        return RenewedProducer(self.plain_producer)
