"""A template's limit on the time of a request holds across attempts and owners."""

from __future__ import annotations

from functools import partial

import pytest

from millstream.agents.templates.retry import RetryPolicy
from millstream.middleware.policy import Policy
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import RunParked
from millstream.schemas.topics import CONTROL, PARKED, RESULTS
from tests.harness.clocked_lane import LIMIT_S, clocked_lane
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    upstream,
)
from tests.support import eventually

pytestmark = pytest.mark.rule(9)

PRICED = Policy.from_yaml(
    "prices: {scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}", "test"
)
bench = partial(clocked_lane, lane_services)


async def test_an_attempt_that_costs_nothing_has_its_beginning_on_the_log_too(
    world: MemoryLanes,
) -> None:
    async with bench(world) as at, upstream(world) as program:
        async with one_lane(world, at.services, None) as owner:
            owner.serve(*await ask(program, "hang", template="limited"))
            (parked,) = await read_topic(world, PARKED, RunParked, count=1)
        assert parked.since_ms > 0
        at.clock.ahead_s += LIMIT_S
        async with one_lane(world, at.services, None):
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.reason is not None
    assert result.reason.code == "request_timed_out"


async def test_a_request_without_a_time_limit_is_not_parked_for_it(world: MemoryLanes) -> None:
    async with (
        bench(world, request_timeout_s=None) as at,
        upstream(world) as program,
        one_lane(world, at.services, None) as owner,
    ):
        owner.serve(*await ask(program, "say: x", template="limited"))
        await read_topic(world, RESULTS, AgentResult, count=1)
        assert await read_whole(world, PARKED, RunParked) == []


async def test_an_attempt_is_cut_off_at_the_limit_of_all_and_not_tried_again(
    world: MemoryLanes,
) -> None:
    async with (
        bench(world, request_timeout_s=0.3) as at,
        upstream(world) as program,
        one_lane(world, at.services, None) as owner,
    ):
        owner.serve(*await ask(program, "hang", template="limited"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.reason is not None
    assert (result.reason.code, result.attempt) == ("request_timed_out", 1000)
    assert at.called.is_set()


@pytest.mark.parametrize("backoff_s", [0.9, 60], ids=["in memory", "outside"])
async def test_an_attempt_that_could_not_end_in_time_is_not_waited_for(
    world: MemoryLanes, backoff_s: float
) -> None:
    retry = RetryPolicy(backoff_first_s=backoff_s, backoff_max_s=60, jitter=0)
    async with (
        bench(world, retry=retry, request_timeout_s=0.8) as at,
        upstream(world) as program,
        one_lane(world, at.services, None) as owner,
    ):
        owner.serve(*await ask(program, "retry: not yet", template="limited"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.reason is not None
    assert (result.reason.code, result.attempt) == ("request_timed_out", 1000)
    assert "model_failed: not yet" in result.reason.message


async def test_the_time_in_which_a_request_is_paused_does_not_count(world: MemoryLanes) -> None:
    retry = RetryPolicy(attempts_max=100, backoff_first_s=0.5, backoff_factor=1, jitter=0)
    async with bench(world, retry=retry) as at, upstream(world) as program:
        async with one_lane(world, at.services, None) as owner:
            owner.serve(*await ask(program, "retry: not yet", template="limited"))
            pause = {"user_id": "ada", "command": "pause", "request_id": "r1"}
            control = world.topic(CONTROL)
            owner.serve(await program.publish(pause, key=b"ada", topic=control), pause)
            await eventually(lambda: owner.lane.waiting == 1, timeout_s=30)
        *_, paused = await read_whole(world, PARKED, RunParked)
    assert paused.since_ms == 0
    assert 500 <= paused.elapsed_ms < 60_000


async def test_what_a_request_waits_in_line_does_not_count(world: MemoryLanes) -> None:
    retry = RetryPolicy(attempts_max=2, backoff_first_s=20, jitter=0)
    async with bench(world, retry=retry) as at, upstream(world) as program:
        async with one_lane(world, at.services, None) as first:
            first.serve(*await ask(program, "retry: not yet", template="limited"))
            _, waits = await read_topic(world, PARKED, RunParked, count=2)
        # The wait that its policy asks for counts, whenever its turn comes after that.
        assert waits.since_ms == 0
        assert 20_000 <= waits.elapsed_ms < 50_000
        at.clock.ahead_s += 2 * LIMIT_S
        async with one_lane(world, at.services, None):
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.reason is not None
    assert (result.reason.code, result.attempt) == ("model_failed", 2000)
