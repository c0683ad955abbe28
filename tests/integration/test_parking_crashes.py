"""Whatever is parked, paused and resumed, and however often the owner is lost: one result each."""

from __future__ import annotations

import pytest

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import DEFERRED, RESULTS
from millstream.streams.settings import Settings
from tests.harness.audit import audit, left_behind, read_records
from tests.harness.handed_records import HandedRecords
from tests.harness.lanes import (
    lane_services,
    one_lane,
    open_keys,
    read_topic,
    upstream,
)
from tests.support import eventually

pytestmark = [pytest.mark.rule(9), pytest.mark.promise("P1"), pytest.mark.promise("P4")]

REQUESTS_MADE = 80
OWNERS = 5


async def is_forgotten(settings: Settings) -> bool:
    return not await open_keys(settings, DEFERRED)


@pytest.mark.slow
async def test_every_request_has_one_result_and_every_session_its_order(
    settings: Settings,
) -> None:
    few = {
        "partitions": 1,
        "runs_in_flight_max": 4,
        "runs_per_user_max": 1,
        "park_after_s": 0.1,
        "waiting_per_user_max": 2,
    }
    settings = settings.model_copy(update=few)
    async with lane_services(settings) as services, upstream(settings) as program:
        partition = HandedRecords(settings, program)
        for owner in range(OWNERS):
            async with one_lane(settings, services, None) as lane:
                partition.serve_again(lane)
                while partition.requests_made < (owner + 1) * REQUESTS_MADE // OWNERS:
                    await partition.next_step(lane)
                if owner + 1 == OWNERS:
                    await partition.resume_all(lane)
                    await read_topic(settings, RESULTS, AgentResult, count=REQUESTS_MADE)
                    await eventually(lambda: is_forgotten(settings))
                partition.lost(lane)
    verdict = audit(partition.asked, await read_records(settings), priced=False)
    assert verdict.faults == {}
    assert verdict.results == REQUESTS_MADE
    assert await left_behind(settings) == []
