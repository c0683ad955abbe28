"""A log that is read again from its beginning: what was decided on long ago is not run again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.agents.executor import wall_clock_ms
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import RESULTS
from millstream.streams.lane.base.window import Window
from millstream.streams.wire.records import InputRecord
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


async def test_what_is_older_than_the_ids_that_are_remembered_has_no_second_result(
    world: MemoryLanes,
) -> None:
    world = world.changed(partitions=1)

    async def answered(count: int = 0) -> list[str]:
        found = [one.request_id for one in await read_whole(world, RESULTS, AgentResult)]
        return found if len(found) >= count else []

    async with lane_services(world) as today, upstream(world) as program:
        services = replace(today, clock_ms=lambda: wall_clock_ms() + 3 * DAY_MS)
        async with one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, "say: now", request_id="new"))
            new, value = await ask(program, "say: later", request_id="newest")
            owner.serve(new._replace(timestamp=new.timestamp + 3 * DAY_MS), value)
            await eventually(lambda: answered(2))
            old, value = await ask(program, "say: old", request_id="old")
            owner._windows[old.topic] = Window[InputRecord](9, again_before=old.offset + 1)
            owner.serve(old, value)
            # The next one is not older than what is remembered, and is served though it is again.
            mended, value = await ask(program, "say: lost", request_id="lost")
            owner._windows[mended.topic]._again_before = mended.offset + 1
            owner.serve(mended._replace(timestamp=new.timestamp + 3 * DAY_MS - 1000), value)
            await eventually(lambda: answered(3))
            assert sorted(owner.acked) == [0, 1, old.offset, mended.offset]
    assert sorted(await answered()) == ["lost", "new", "newest"]
