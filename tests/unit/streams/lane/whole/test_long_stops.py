"""A partition that had no owner for longer than ids are remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.agents.executor import wall_clock_ms
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import RESULTS
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_whole,
    upstream,
)
from tests.support import eventually

pytestmark = [pytest.mark.rule(3), pytest.mark.promise("P1")]

DAY_MS = 86_400_000


@pytest.mark.parametrize("crashes", [False, True], ids=["one owner", "a new owner"])
async def test_a_second_copy_that_is_left_unread_for_days_has_no_second_result(
    world: MemoryLanes, *, crashes: bool
) -> None:
    few = {"partitions": 1, "runs_in_flight_max": 4, "runs_per_user_max": 1}
    world = world.changed(**{**few, "waiting_per_user_max": 4})
    ahead_ms = 0

    async def is_answered(request_id: str) -> bool:
        found = await read_whole(world, RESULTS, AgentResult)
        return request_id in {one.request_id for one in found}

    async with lane_services(world) as today, upstream(world) as program:
        services = replace(today, clock_ms=lambda: wall_clock_ms() + ahead_ms)
        async with one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, "say: once"))
            await eventually(lambda: is_answered("r1"))
            for number in range(20):  # a flood, with the same request again at its end
                more = {"request_id": f"a{number}", "session_id": "s"}
                owner.serve(*await ask(program, "slow: 0.02; say: x", **more))
            owner.serve(*await ask(program, "say: once"))
            assert owner.lane.deferred > 10
            # Time passes, and what others ask is decided on.
            ahead_ms = 2 * DAY_MS
            sent, value = await ask(program, "say: x", user_id="bob", request_id="b1")
            owner.serve(sent._replace(timestamp=sent.timestamp + ahead_ms), value)
            await eventually(lambda: is_answered("b1"))
            if not crashes:
                await eventually(lambda: owner.lane.deferred == 0, timeout_s=30)
                await eventually(lambda: is_answered("a19"), timeout_s=30)
        if crashes:
            async with one_lane(world, services, None) as again:
                await eventually(lambda: is_answered("a19"), timeout_s=60)
                await eventually(lambda: again.lane.deferred == 0, timeout_s=30)
    results = await read_whole(world, RESULTS, AgentResult)
    assert len(results) == len({one.request_id for one in results}) == 22
