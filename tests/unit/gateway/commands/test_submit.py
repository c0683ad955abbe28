"""`millstream submit`: what it says of a request when its time is over."""

from __future__ import annotations

import pytest

from millstream.gateway.commands.submit import state_told
from millstream.schemas.lane_events import HoldPlaced, RunParked
from millstream.schemas.topics import HOLDS, PARKED
from millstream.streams.bus.memory import MemoryLog
from tests import making
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    give,
    lane_services,
    one_lane,
    read_topic,
    upstream,
)


@pytest.fixture
def world() -> MemoryLanes:
    return MemoryLanes()


async def test_a_run_that_does_not_go_on_is_told_with_what_it_waits_for(world: MemoryLanes) -> None:
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await give(world, program, "pause", request_id="r1"))
        await read_topic(world, HOLDS, HoldPlaced, count=1)
        for request_id in ("r1", "r2"):
            owner.serve(*await ask(program, "say: x", request_id=request_id, session_id="s1"))
        await read_topic(world, PARKED, RunParked, count=2)
        log = MemoryLog(world.broker)
        paused, behind, none = [
            await state_told(log, world.settings, making.request(request_id=one, session_id="s1"))
            for one in ("r1", "r2", "r3")
        ]
    assert paused == "request r1 is paused: it is paused"
    assert behind == "request r2 is waiting: waits behind r1 of its session, which is paused"
    assert none is None
