"""Group commits on real Kafka pass the contract, and what only Kafka's producer can show."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer

from millstream.schemas.errors import LaneLost
from millstream.streams.broker.clients import transactional_producer
from millstream.streams.settings import Settings
from millstream.streams.transactions.committer import Committer
from millstream.streams.transactions.guarded_producer import GuardedProducer
from millstream.streams.transactions.producers import ProducerRotation
from tests.contracts.committer_contract import CommitterContract, outgoing
from tests.contracts.log_world import soon, started, turns
from tests.harness.log_worlds import KafkaWorld


class TestKafkaCommitter(CommitterContract):
    @pytest.fixture
    def world(self, settings: Settings) -> KafkaWorld:
        return KafkaWorld(settings)


async def test_a_transaction_begins_where_those_with_its_first_records_went_before(
    settings: Settings,
) -> None:
    world = KafkaWorld(settings)
    asked, answered, other = [await world.create(name) for name in ("asked", "answered", "other")]
    producers: list[AIOKafkaProducer] = []

    def make() -> AIOKafkaProducer:
        name = f"{settings.namespace}-lane-{len(producers)}"
        producers.append(transactional_producer(settings, name))
        return producers[-1]

    committer = Committer(
        lambda _number: GuardedProducer(make),
        producers=2,
        records_max=100,
        timeout_s=20,
        gather_s=0.0,
        on_lost=lambda _lost: None,
    )
    async with started(committer):
        for topics in ((asked, answered), (other,)):
            await soon(committer.submit([outgoing(topic, b"before") for topic in topics]))
        lazy = committer.submit([outgoing(asked, b"now")], lazy=True)
        await turns(5)  # its transaction has begun by now
        added = {
            place.topic
            for producer in producers
            for place in producer._txn_manager.partitions_to_add()
            | producer._txn_manager.txn_partitions
        }
        assert added == {asked.topic, answered.topic}
        await asyncio.wait_for(lazy, 30)


async def test_brokers_that_let_no_transaction_take_so_long_are_told_with_the_setting(
    settings: Settings,
) -> None:
    # More than brokers' transaction.max.timeout.ms, of 15 minutes.
    name = f"{settings.namespace}-long"
    rotation = ProducerRotation(
        lambda _: GuardedProducer(lambda: transactional_producer(settings, name, timeout_s=1000)),
        producers=1,
        timeout_s=20,
    )
    with pytest.raises(LaneLost, match="MILLSTREAM_COMMIT_TIMEOUT_S"):
        await rotation.start()
    await rotation.stop()
