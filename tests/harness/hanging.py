"""Transactions that hang, made as a broker leaves them: records without a marker to come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidTxnState, NotLeaderForPartitionError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from millstream.streams.broker.clients import admin_client, transactional_producer
from millstream.streams.broker.raw_broker import raw_log
from millstream.streams.settings import Settings

_VERIFY = "transaction.partition.verification.enable"
_ALL_IN_SYNC = -1
_TIMEOUT_MS = 10_000


@asynccontextmanager
async def unverified(settings: Settings) -> AsyncIterator[None]:
    """Have brokers take transactional records that their coordinator was not told of."""
    admin = admin_client(settings)
    await admin.start()
    try:
        nodes = [broker.nodeId for broker in admin._client.cluster.brokers()]
        for configs in ({_VERIFY: "false"}, {}):
            for response in await admin.alter_configs(
                [ConfigResource(ConfigResourceType.BROKER, str(node), configs) for node in nodes]
            ):
                assert all(not one["error_code"] for one in response.to_object()["resources"])
            if configs:
                yield
    finally:
        await admin.close()


@asynccontextmanager
async def producing(settings: Settings, transactional_id: str) -> AsyncIterator[AIOKafkaProducer]:
    """Start a producer of transactions."""
    producer = transactional_producer(settings, transactional_id)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def hang(
    settings: Settings,
    producer: AIOKafkaProducer,
    where: TopicPartition,
    value: bytes,
    *,
    key: bytes = b"key",
    at_ms: int | None = None,
) -> None:
    """Write a record of a producer's transaction that its coordinator knows nothing of.

    `at_ms` counts where the topic takes its records' own times. The broker must be `unverified`.
    """
    manager = producer._txn_manager
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=1,
        producer_id=manager.producer_id,
        producer_epoch=manager.producer_epoch,
        base_sequence=manager.sequence_number(where),
        batch_size=1 << 20,
    )
    builder.append(0, timestamp=at_ms, key=key, value=value, headers=[])
    manager.increment_sequence_number(where, 1)
    batch = bytes(builder.build())
    request = ProduceRequest(
        manager.transactional_id,
        _ALL_IN_SYNC,
        _TIMEOUT_MS,
        [(where.topic, [(where.partition, batch)])],
    )
    async with raw_log(settings, [where.topic]) as raw:
        while error_code := (await raw.ask(raw.leader(where), request)).topics[0][1][0][1]:
            # The leader of a topic that is new may not know yet that it is, nor that it is not to
            # verify what it gets.
            assert error_code in {NotLeaderForPartitionError.errno, InvalidTxnState.errno}
            await raw.refresh()


async def end_one(
    producer: AIOKafkaProducer, places: Collection[TopicPartition], *, is_commit: bool
) -> None:
    """Do a whole transaction with a record on each of these partitions."""
    await producer.begin_transaction()
    for where in places:
        await producer.send_and_wait(where.topic, b"{}", b"key", partition=where.partition)
    await (producer.commit_transaction() if is_commit else producer.abort_transaction())
