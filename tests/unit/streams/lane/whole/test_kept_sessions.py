"""A conversation goes on for as long as its checkpoints are kept, whatever is set for that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.schemas.events import AgentResult
from millstream.schemas.ports import wall_clock_ms
from millstream.schemas.topics import DAY_MS, RESULTS
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    upstream,
)


@pytest.mark.parametrize(
    ("kept_days", "later_days", "goes_on"),
    [(None, 3, True), (2, 3, False), (None, 40, False), (90, 40, True)],
)
async def test_a_turn_after_a_while_follows_the_last_while_that_is_kept(
    kept_days: int | None, later_days: int, *, goes_on: bool
) -> None:
    world = MemoryLanes()
    if kept_days is not None:
        world = world.changed(topics={"checkpoints": {"retention.ms": kept_days * DAY_MS}})
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, "say: one", session_id="s"))
            await read_topic(world, RESULTS, AgentResult, count=1)
        later = replace(services, clock_ms=lambda: wall_clock_ms() + later_days * DAY_MS)
        async with one_lane(world, later, None) as owner:
            owner.serve(*await ask(program, "say: two", session_id="s", request_id="r2"))
            first, second = await read_topic(world, RESULTS, AgentResult, count=2)
    assert second.status == "completed"
    # What was said before is read again where it is known.
    assert (second.usage.input_tokens > first.usage.input_tokens) is goes_on
