"""A replay of real Kafka passes the contract."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from millstream.schemas.topics import RESULTS, TOKENS
from millstream.streams.broker.clients import transactional_producer
from millstream.streams.bus.api import Delivery
from millstream.streams.history.replay import HistoryQuery, read_history
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import encode
from tests.contracts.bus_world import token
from tests.contracts.history_contract import HistoryContract
from tests.contracts.worlds import KafkaWorld

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

    async def test_replay_that_is_left_early_lets_go_of_its_connection(
        self, world: KafkaWorld
    ) -> None:
        async with world.bus() as bus:
            await bus.publish_batch([token(0), token(1)])
        async with aclosing(read_history(world.settings, HistoryQuery())) as replayed:
            assert isinstance(await anext(replayed), Delivery)
