"""What a lane sends outside its transactions: tokens, and records to where they belong."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import CONTROL, REQUESTS, RESULTS, TopicSpec
from millstream.streams.wire.partitioning import home_partition, name_at
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_whole,
    upstream,
)

pytestmark = pytest.mark.rule(4)


class Deaf:
    """A producer whose broker takes nothing, which it says late."""

    async def send(self, *_: object, **__: object) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[object] = loop.create_future()
        loop.call_later(0.05, heard.set_exception, KafkaTimeoutError())
        return heard

    async def send_and_wait(self, *sent: object, **more: object) -> Any:
        return await (await self.send(*sent, **more))


@pytest.mark.rule(8)
async def test_a_result_is_not_committed_while_a_token_is_not_acknowledged(
    world: MemoryLanes,
) -> None:
    async with lane_services(world) as services, upstream(world) as program:
        deaf = replace(services, producer=Deaf())
        async with one_lane(world, deaf, None) as owner:
            owner.serve(*await ask(program, "say: x"))
            lost = await asyncio.wait_for(owner.lane.lost, 10)
            assert owner.acked == []
    assert "tokens" in str(lost)
    assert await read_whole(world, RESULTS, AgentResult) == []


@pytest.mark.parametrize("topic", [REQUESTS, CONTROL], ids=lambda topic: topic.name)
async def test_a_record_that_could_not_be_put_at_its_partition_is_not_acknowledged(
    world: MemoryLanes, topic: TopicSpec
) -> None:
    home = home_partition("ada", world.settings.partitions)
    stranger = name_at((home + 1) % world.settings.partitions, world.settings.partitions)
    value = {"user_id": stranger, "input": "x", "command": "cancel", "request_id": "r1"}

    async with lane_services(world) as services, upstream(world) as program:
        sent = await program.publish(value, partition=home, topic=world.topic(topic))
        async with one_lane(world, replace(services, producer=Deaf()), None) as owner:
            owner.serve(sent, value)
            await asyncio.wait_for(owner.lane.lost, 10)
            assert owner.acked == []
