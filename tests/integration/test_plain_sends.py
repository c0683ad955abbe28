"""What a lane sends outside its transactions: tokens, and records to where they belong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaTimeoutError

from millstream.schemas.events import AgentResult, AgentToken
from millstream.schemas.topics import CONTROL, REQUESTS, RESULTS, TOKENS, TopicSpec
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition, name_at
from tests.harness.lanes import (
    ask,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    running_lanes,
    upstream,
)


async def test_no_transaction_writes_tokens_or_to_the_partition_of_another_lane(
    settings: Settings,
) -> None:
    home = home_partition("ada", settings.partitions)
    away = (home + 1) % settings.partitions
    async with running_lanes(settings), upstream(settings) as program:
        await program.publish({"user_id": "ada", "input": "tokens: 5"}, partition=away)
        await read_topic(settings, RESULTS, AgentResult, count=1)
    tokens = await read_whole(settings, TOKENS, AgentToken)
    written = {
        TopicPartition(settings.topic(TOKENS.name), home): len(tokens),
        TopicPartition(settings.topic(REQUESTS.name), home): 1,
    }
    reader = PartitionReader(settings)
    await reader.start()
    try:
        # A transaction would have left its marker behind the records.
        assert await reader.high_watermarks(written) == written
    finally:
        await reader.stop()


async def test_a_result_is_not_committed_while_a_token_is_not_acknowledged(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hear_late(*_: Any, **__: Any) -> asyncio.Future[object]:
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[object] = loop.create_future()
        loop.call_later(0.5, heard.set_exception, KafkaTimeoutError())
        return heard

    async with lane_services(settings) as services, upstream(settings) as program:
        monkeypatch.setattr(services.producer, "send", hear_late)
        async with one_lane(settings, services, None) as owner:
            owner.serve(*await ask(program, "say: x"))
            lost = await asyncio.wait_for(owner.lane.lost, 10)
            assert owner.acked == []
    assert "tokens" in str(lost)
    assert await read_whole(settings, RESULTS, AgentResult) == []


@pytest.mark.parametrize("topic", [REQUESTS, CONTROL], ids=lambda topic: topic.name)
async def test_a_record_that_could_not_be_put_at_its_partition_is_not_acknowledged(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, topic: TopicSpec
) -> None:
    home = home_partition("ada", settings.partitions)
    stranger = name_at((home + 1) % settings.partitions, settings.partitions)
    value = {"user_id": stranger, "input": "x", "command": "cancel", "request_id": "r1"}

    async def hear_nothing(*_: Any, **__: Any) -> None:
        raise KafkaTimeoutError

    async with lane_services(settings) as services, upstream(settings) as program:
        sent = await program.publish(value, partition=home, topic=settings.topic(topic.name))
        async with one_lane(settings, services, None) as owner:
            monkeypatch.setattr(services.producer, "send_and_wait", hear_nothing)
            owner.serve(sent, value)
            await asyncio.wait_for(owner.lane.lost, 10)
            assert owner.acked == []
