"""A replay of real Kafka passes the contract."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from aiokafka import TopicPartition

from millstream.schemas.topics import RESULTS, TOKENS
from millstream.streams.broker.clients import committed_consumer, transactional_producer
from millstream.streams.broker.fetched.eager_fetcher import EagerFetcher
from millstream.streams.bus.api import Delivery
from millstream.streams.history.replay import HistoryQuery, read_history
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import encode
from tests.contracts.bus_world import token
from tests.contracts.history_contract import HistoryContract
from tests.contracts.worlds import KafkaWorld
from tests.services.users import acting_as

pytestmark = pytest.mark.promise("P8")


class TestKafkaHistory(HistoryContract):
    @pytest.fixture
    async def world(self, settings: Settings) -> KafkaWorld:
        return await KafkaWorld.created(settings)

    async def test_only_committed_records_are_replayed_to_the_end_of_their_transactions(
        self, world: KafkaWorld
    ) -> None:
        topic = world.settings.topic("tokens")
        async with transactional_producer(world.settings, world.settings.namespace) as producer:
            for seq, keep in ((0, True), (1, False)):
                record = encode(token(seq), source="/test")
                await producer.begin_transaction()
                await producer.send_and_wait(topic, record.value, record.key, partition=0)
                await (producer.commit_transaction() if keep else producer.abort_transaction())
        replayed = [one async for one in world.replay(HistoryQuery(topics=(TOKENS, RESULTS)))]
        assert [one.event for one in replayed if isinstance(one, Delivery)] == [token(0)]

    async def test_the_newest_are_found_behind_markers_and_aborted_records(
        self, world: KafkaWorld
    ) -> None:
        topic = world.settings.topic("tokens")
        async with transactional_producer(world.settings, world.settings.namespace) as producer:
            for seq in range(40):
                record = encode(token(seq), source="/test")
                await producer.begin_transaction()
                await producer.send_and_wait(topic, record.value, record.key, partition=0)
                is_kept = seq % 4 == 0
                await (producer.commit_transaction() if is_kept else producer.abort_transaction())
        newest = [one async for one in world.replay(HistoryQuery(topics=(TOKENS,), limit=3))]
        assert [one.event for one in newest if isinstance(one, Delivery)] == [
            token(28),
            token(32),
            token(36),
        ]

    async def test_stretch_that_ends_with_a_marker_is_read_without_a_wait(
        self, world: KafkaWorld
    ) -> None:
        where = TopicPartition(world.settings.topic("tokens"), 0)
        record = encode(token(0), source="/test")
        async with transactional_producer(world.settings, world.settings.namespace) as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(where.topic, record.value, record.key, partition=0)
            await producer.abort_transaction()
        consumer = committed_consumer(world.settings)
        await consumer.start()
        assert isinstance(consumer._fetcher, EagerFetcher)  # as all readers have it
        try:
            consumer.assign([where])
            consumer.seek(where, 0)
            hour_ms = 3_600_000
            async with asyncio.timeout(20):
                while await consumer.position(where) < 2:
                    assert await consumer.getmany(timeout_ms=hour_ms) == {}
        finally:
            await consumer.stop()

    async def test_replay_that_is_left_early_lets_go_of_its_connection(
        self, world: KafkaWorld
    ) -> None:
        async with world.bus() as bus:
            await bus.publish_batch([token(0), token(1)])
        async with aclosing(
            read_history(acting_as(world.settings, "auditor"), HistoryQuery())
        ) as replayed:
            assert isinstance(await anext(replayed), Delivery)
