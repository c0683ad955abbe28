"""Whatever is parked, paused and resumed, and however often the owner is lost: one result each."""

from __future__ import annotations

import pytest

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import DEFERRED, RESULTS
from tests.harness.audit import audit, left_behind, read_records
from tests.harness.handed_records import HandedRecords
from tests.harness.memory_lanes import (
    MemoryLanes,
    lane_services,
    one_lane,
    open_keys,
    read_topic,
    read_whole,
    upstream,
)
from tests.support import eventually

pytestmark = [pytest.mark.rule(9), pytest.mark.promise("P1"), pytest.mark.promise("P4")]

REQUESTS_MADE = 80
OWNERS = 5


async def is_forgotten(world: MemoryLanes) -> bool:
    return not await open_keys(world, DEFERRED)


@pytest.mark.parametrize(
    ("waiting_per_user_max", "is_behind"), [(1000, False), (2, False), (1000, True)]
)
@pytest.mark.parametrize("seed", range(3))
async def test_every_request_has_one_result_and_every_session_its_order(
    world: MemoryLanes,
    seed: int,
    waiting_per_user_max: int,
    is_behind: bool,  # noqa: FBT001
) -> None:
    few = {
        "partitions": 1,
        "runs_in_flight_max": 4,
        "runs_per_user_max": 1,
        "park_after_s": 0.01,
        "waiting_per_user_max": waiting_per_user_max,
    }
    world = world.limited(at_hand_behind=2).changed(**few)
    async with lane_services(world) as services, upstream(world) as program:
        partition = HandedRecords(
            world.settings, program, seed, is_behind=is_behind, slow_s=(0, 0.002, 0.02)
        )
        for owner in range(OWNERS):
            async with one_lane(world, services, None) as lane:
                partition.serve_again(lane)
                while partition.requests_made < (owner + 1) * REQUESTS_MADE // OWNERS:
                    await partition.next_step(lane)
                if owner + 1 == OWNERS:
                    await partition.resume_all(lane)
                    await read_topic(world, RESULTS, AgentResult, count=REQUESTS_MADE)
                    await eventually(lambda: is_forgotten(world))
                partition.lost(lane)
    verdict = audit(partition.asked, await read_records(world, read_whole), priced=False)
    assert verdict.faults == {}
    assert verdict.results == REQUESTS_MADE
    assert await left_behind(world, open_keys) == []
