"""The bus on real Kafka passes the bus's contract, and what only Kafka can show."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic

from millstream.schemas.errors import InputTooLarge, ServiceUnavailable
from millstream.schemas.topics import TOKENS
from millstream.streams.broker.clients import admin_client, transactional_producer
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import Settings, child_environment
from millstream.streams.wire.codec import encode
from tests.contracts.bus_contract import BusContract
from tests.contracts.bus_world import Inbox, token
from tests.contracts.worlds import KafkaWorld

ROOT = Path(__file__).resolve().parents[2]

# What another program runs: it publishes three tokens and ends.
PUBLISHER = """
import asyncio
from millstream.schemas.events import AgentToken
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import load_settings

async def main():
    async with KafkaBus(load_settings()) as bus:
        for seq in range(3):
            await bus.publish(AgentToken(user_id="ada", request_id="r1", session_id="s1",
                                         attempt=0, seq=seq, text=f"word {seq}"))

asyncio.run(main())
"""


class TestKafkaBus(BusContract):
    @pytest.fixture
    async def world(self, settings: Settings) -> KafkaWorld:
        return await KafkaWorld.created(settings)

    async def test_handler_gets_what_another_real_process_published(
        self, world: KafkaWorld, bus: KafkaBus
    ) -> None:
        inbox = Inbox()
        await bus.subscribe(inbox, topics=[TOKENS])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PUBLISHER),
            cwd=ROOT,
            env=child_environment(world.settings),
        )
        assert await process.wait() == 0
        await inbox.holds(token(0), token(1), token(2))

    async def test_aborted_records_are_never_delivered(
        self, world: KafkaWorld, bus: KafkaBus
    ) -> None:
        inbox = Inbox()
        await bus.subscribe(inbox, topics=[TOKENS])
        producer = transactional_producer(world.settings, f"{world.settings.namespace}-test")
        topic = world.settings.topic("tokens")
        async with producer:
            for seq, keep in ((0, False), (1, True)):
                record = encode(token(seq), source="/test")
                await producer.begin_transaction()
                await producer.send_and_wait(topic, record.value, record.key, partition=0)
                assert inbox.events == []
                await (producer.commit_transaction() if keep else producer.abort_transaction())
        await inbox.holds(token(1))
        (read,) = await bus.history(topics=[TOKENS])
        assert read.event == token(1)

    async def test_bus_without_kafka_names_the_address(self) -> None:
        bus = KafkaBus(Settings(kafka="127.0.0.1:1"))
        with pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1:1"):
            await bus.__aenter__()


async def test_what_a_topic_refuses_is_told_and_the_bus_can_be_used_on(settings: Settings) -> None:
    small = NewTopic(
        settings.topic(TOKENS.name),
        settings.partitions,
        1,
        topic_configs={"max.message.bytes": "20000"},
    )
    admin = admin_client(settings)
    await admin.start()
    await admin.create_topics([small])
    await admin.close()
    await ensure_topics(settings, (TOKENS,))
    large = token(1).model_copy(update={"text": "x" * 50_000})
    async with KafkaBus(settings) as bus:
        await bus.publish(token(0))
        for _ in range(2):
            with pytest.raises(InputTooLarge, match="tokens"):
                await bus.publish(large)
            with pytest.raises(InputTooLarge, match="topics"):
                await bus.publish_batch([large])
            await bus.publish(token(2))
            await bus.publish_batch([token(3)])
        found = await bus.history(topics=[TOKENS])
    assert [getattr(one.event, "seq", None) for one in found] == [0, 2, 3, 2, 3]
