"""A partition that had no owner for longer than ids are remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.agents.executor import wall_clock_ms
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import RESULTS
from millstream.streams.settings import Settings
from tests.harness.lanes import ask, lane_services, one_lane, read_topic, read_whole, upstream
from tests.support import eventually

pytestmark = [pytest.mark.rule(3), pytest.mark.promise("P1")]

DAY_MS = 86_400_000


async def test_a_record_that_was_not_acknowledged_before_a_long_stop_has_no_second_result(
    settings: Settings,
) -> None:
    assert settings.dedup_window_s * 1000 <= DAY_MS
    async with lane_services(settings) as services, upstream(settings) as program:
        served = await ask(program, "say: x")
        async with one_lane(settings, services, None) as first:
            first.serve(*served)
            await read_topic(settings, RESULTS, AgentResult, count=1)
        later = replace(services, clock_ms=lambda: wall_clock_ms() + 2 * DAY_MS)
        async with one_lane(settings, later, None) as second:
            second.serve(*served)
            second.serve(*await ask(program, "say: x", request_id="r2"))
            await eventually(lambda: len(second.acked) == 2, timeout_s=30)
    results = await read_whole(settings, RESULTS, AgentResult)
    assert sorted(one.request_id for one in results) == ["r1", "r2"]
