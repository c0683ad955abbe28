"""When a lane parks a run to let go of its record, and when it may not."""

from __future__ import annotations

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import PARKED, RESULTS
from tests.harness.memory_lanes import MemoryLanes, read_topic
from tests.harness.odd_runs import odd_lane
from tests.support import eventually


def parked(world: MemoryLanes) -> list[bytes | None]:
    """Give the keys of what was ever parked, in order."""
    records = (one for where in world.places(PARKED) for one in world.broker.records(where))
    return [record.key for record in records if record.value is not None]


def keys(*request_ids: str) -> list[bytes]:
    return [f"default\x1fada\x1f{request_id}".encode() for request_id in request_ids]


async def test_a_run_whose_result_is_on_its_way_is_not_parked_behind_it(
    world: MemoryLanes,
) -> None:
    # Its parked request would outlive the result, and the next owner would run it again.
    world = world.changed(runs_in_flight_max=1)
    async with odd_lane(world) as lane:
        first = await lane.ask("r1")
        second = await lane.ask("r2")
        world.broker.go_away()
        lane.owner.serve(*first)
        await eventually(lambda: lane.run("r1").ending)
        lane.owner.serve(*second)
        world.broker.come_back()
        results = await read_topic(world, RESULTS, AgentResult, count=2)
    assert [one.request_id for one in results] == ["r1", "r2"]
    assert parked(world) == keys("r2")


async def test_a_newcomer_that_waits_parks_what_its_session_runs_before_it(
    world: MemoryLanes,
) -> None:
    async with odd_lane(world.changed(runs_in_flight_max=1)) as lane:
        await lane.submit("r1", "hang")
        await lane.submit("r2")
        await eventually(lambda: parked(world) == keys("r1", "r2"))


async def test_runs_let_go_of_their_records_when_these_hold_back_others(
    world: MemoryLanes,
) -> None:
    async with odd_lane(world.changed(runs_in_flight_max=10, park_after_s=3600)) as lane:
        for name in ("r1", "r2"):
            await lane.submit(name, "hang")
        lane.owner.lane.release_records()
        await lane.submit("r3", "hang")
        await eventually(lambda: lane.owner.acked == [0, 1])
    assert parked(world) == keys("r1", "r2")
