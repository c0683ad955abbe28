"""Runs that have to wait: parked on the log, fair among users, taken over with their order."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.schemas.events import AgentResult, Decision
from millstream.schemas.topics import DECISIONS, PARKED, RESULTS
from millstream.streams.settings import Settings
from tests.harness.lanes import (
    open_keys,
    read_topic,
    read_whole,
    running_lanes,
    upstream,
)
from tests.support import eventually

pytestmark = [pytest.mark.rule(9), pytest.mark.promise("P4")]


def waiting(lanes: Any) -> int:
    return sum(one.figures().waiting for one in lanes)


def small(settings: Settings, **changes: object) -> Settings:
    """A lane that has room for few, and parks soon."""
    few = {"runs_in_flight_max": 8, "runs_per_user_max": 2, "park_after_s": 0.2, "partitions": 1}
    return settings.model_copy(update={**few, **changes})


async def test_what_is_parked_is_taken_over_in_order_and_has_one_result(
    settings: Settings,
) -> None:
    settings = small(settings)
    requests = [
        {
            "user_id": "ada",
            "session_id": f"s{number % 3}",
            "request_id": f"r{number}",
            "input": f"slow: 0.2; say: {number}",
        }
        for number in range(24)
    ]
    async with upstream(settings) as program:
        async with running_lanes(settings) as lanes:
            for request in requests:
                await program.publish(dict(request))
            await read_topic(settings, DECISIONS, Decision, count=24)
            await eventually(lambda: waiting(lanes) > 5)
        # An upstream that never heard an answer publishes them all again.
        for request in requests:
            await program.publish(dict(request))
        async with running_lanes(settings):
            await read_topic(settings, RESULTS, AgentResult, count=24)
            await program.publish({"user_id": "ada", "request_id": "last", "input": "x"})
            await read_topic(settings, RESULTS, AgentResult, count=25)
    results = await read_whole(settings, RESULTS, AgentResult)
    assert len(results) == 25
    assert {result.status for result in results} == {"completed"}
    for name in ("s0", "s1", "s2"):
        ids = [int(one.request_id[1:]) for one in results if one.session_id == name]
        assert ids == sorted(ids)
    assert await open_keys(settings, PARKED) == set()
