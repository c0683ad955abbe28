"""A run goes on from what was committed, whatever the copy of it in Redis has become."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.schemas.events import AgentResult, CheckpointSaved
from millstream.schemas.topics import CHECKPOINTS, RESULTS
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    upstream,
)

pytestmark = pytest.mark.promise("P6")


@pytest.mark.parametrize(
    "change", [{"data": "AAAA"}, {"data": ""}, {"turn": 9}, {"parent_id": "other"}], ids=str
)
async def test_a_checkpoint_that_was_altered_in_redis_is_read_from_the_log(
    world: MemoryLanes, change: dict[str, object]
) -> None:
    seen: list[CheckpointSaved] = []

    async def altered(_tenant: str, _user_id: str, _session_id: str) -> CheckpointSaved:
        seen.append(first.model_copy(update=change))
        return seen[-1]

    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, "say: one", session_id="s"))
            (first,) = await read_topic(world, CHECKPOINTS, CheckpointSaved, count=1)
        with_redis = replace(services, peek_checkpoint=altered)
        async with one_lane(world, with_redis, None) as owner:
            owner.serve(*await ask(program, "say: two", request_id="r2", session_id="s"))
            results = await read_topic(world, RESULTS, AgentResult, count=2)
        checkpoints = await read_topic(world, CHECKPOINTS, CheckpointSaved, count=2)
    assert seen
    assert [one.output for one in results] == ["one", "two"]
    assert [(one.turn, one.parent_id) for one in checkpoints][1] == (2, first.checkpoint_id)
    assert services.metrics.checkpoints_altered._value.get() == 1


async def test_a_checkpoint_as_it_was_committed_is_taken_from_redis(world: MemoryLanes) -> None:
    async def redis(_tenant: str, _user_id: str, _session_id: str) -> CheckpointSaved:
        return first

    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, "say: one", session_id="s"))
            (first,) = await read_topic(world, CHECKPOINTS, CheckpointSaved, count=1)
        with_redis = replace(services, peek_checkpoint=redis)
        async with one_lane(world, with_redis, None) as owner:
            owner.serve(*await ask(program, "say: two", request_id="r2", session_id="s"))
            await read_topic(world, RESULTS, AgentResult, count=2)
    assert services.metrics.checkpoints_altered._value.get() == 0
