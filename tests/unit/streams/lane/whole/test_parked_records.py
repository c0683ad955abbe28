"""What is parked, and what a lane makes of it: never acknowledged too early, never decided anew."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiokafka import TopicPartition

from millstream.middleware.policy import Policy
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import RunParked
from millstream.schemas.topics import PARKED, RESULTS
from millstream.streams.lane.queue.parked_log import ParkedLog
from tests.contracts.log_world import started
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    upstream,
)

pytestmark = pytest.mark.rule(9)

ONE_AN_HOUR = Policy.from_yaml("defaults: {rate: {requests: 1, window_s: 3600}}", "test")


def parked(request_id: str, order: int) -> bytes:
    head = {"tenant": "default", "user_id": "ada", "session_id": "s", "decision": {}}
    return json.dumps({**head, "request_id": request_id, "order": order}).encode()


async def test_what_was_parked_anew_is_taken_over_at_its_own_place(world: MemoryLanes) -> None:
    where = TopicPartition(world.topic(PARKED), 0)
    async with lane_services(world) as services, started(world.io().reader()) as reader:
        for key, value in (
            (b"r1", parked("r1", 1)),
            (b"r2", parked("r2", 2)),
            (b"foreign", b"\xff"),
            (b"over", parked("over", 0)),
            (b"over", None),
            (b"r1", parked("r1", 1)),
        ):
            await services.producer.send_and_wait(where.topic, value, key, partition=0)
        found = await ParkedLog(reader, where).open_set()
    assert [(offset, head.request_id) for offset, head in found] == [(5, "r1"), (1, "r2")]


async def test_what_is_parked_stays_admitted_for_the_next_owner(world: MemoryLanes) -> None:
    world = world.changed(park_after_s=0.01)
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, ONE_AN_HOUR) as owner:
            owner.serve(*await ask(program, "slow: 0.2; say: x"))
            await read_topic(world, PARKED, RunParked, count=1)
        async with one_lane(world, services, ONE_AN_HOUR):
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.output) == ("completed", "x")


async def test_one_user_has_no_more_than_a_share_of_a_lanes_memory(world: MemoryLanes) -> None:
    few: dict[str, Any] = {"runs_in_flight_max": 4, "runs_per_user_max": 1, "partitions": 1}
    world = world.changed(**few)
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        for number in range(4):
            owner.serve(*await ask(program, "hang", request_id=f"r{number}"))
        owner.serve(*await ask(program, "say: x", user_id="bob", request_id="b"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1, timeout_s=20)
        waiting = await read_topic(world, PARKED, RunParked, count=2)
    assert result.request_id == "b"
    assert [one.request_id for one in waiting] == ["r2", "r3"]
