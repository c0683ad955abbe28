"""What a lane sends outside its transactions: tokens, and records to where they belong."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import CONTROL, REQUESTS, RESULTS, TopicSpec
from millstream.streams.lane.base.context import PlainProducer
from millstream.streams.wire.partitioning import home_partition, name_at
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_whole,
    upstream,
)
from tests.support import eventually

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


class SlowToBegin:
    """A producer that finds its topic with the first send, and takes the others at once."""

    def __init__(self, producer: PlainProducer) -> None:
        self._producer = producer
        self.found = asyncio.Event()
        self.asked = 0

    async def send(self, *sent: Any, **more: Any) -> asyncio.Future[Any]:
        self.asked += 1
        if self.asked == 1:
            await self.found.wait()
        return await self._producer.send(*sent, **more)

    async def send_and_wait(self, *sent: Any, **more: Any) -> Any:
        return await (await self.send(*sent, **more))


@pytest.mark.promise("P4")
async def test_records_that_came_to_one_wrong_partition_keep_their_order(
    world: MemoryLanes,
) -> None:
    home = home_partition("ada", world.settings.partitions)
    wrong = (home + 1) % world.settings.partitions
    stranger = name_at(wrong, world.settings.partitions)
    async with lane_services(world) as services, upstream(world) as program:
        slow = SlowToBegin(services.producer)
        async with one_lane(world, replace(services, producer=slow), None, user=stranger) as owner:
            for number in range(3):
                value = {"user_id": "ada", "request_id": f"r{number}", "input": "say: x"}
                owner.serve(await program.publish(value, partition=wrong), value)
            await eventually(lambda: slow.asked > 0)
            slow.found.set()
            await eventually(lambda: len(owner.acked) == 3)
    (where,) = [one for one in world.places(REQUESTS) if one.partition == home]
    came = [json.loads(one.value or b"")["request_id"] for one in world.broker.records(where)]
    assert came == ["r0", "r1", "r2"]
