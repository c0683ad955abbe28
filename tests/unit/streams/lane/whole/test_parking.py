"""Runs that have to wait: parked on the log, fair among users, taken over with their order."""

from __future__ import annotations

import asyncio
import dataclasses
from itertools import pairwise
from typing import Any

import pytest
from aiokafka import TopicPartition

from millstream.agents.attempt import RunOutcome
from millstream.agents.factory import RunPlan
from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.base import compound_key
from millstream.schemas.errors import ModelFailed
from millstream.schemas.events import AgentResult, AgentToken, Decision, ResolvedRequest
from millstream.schemas.lane_events import HoldPlaced, RunParked
from millstream.schemas.reasons import reason_of, result_of
from millstream.schemas.topics import DECISIONS, HOLDS, PARKED, RESULTS, TOKENS
from millstream.streams.wire.partitioning import home_partition
from tests.contracts.waiting_lane_contract import PARKS_SOON, waiting
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    ask,
    give,
    lane_services,
    one_lane,
    open_keys,
    read_topic,
    read_whole,
    running_lanes,
    upstream,
)
from tests.support import eventually

pytestmark = [pytest.mark.rule(9), pytest.mark.promise("P4")]


def held(lanes: Any) -> int:
    return sum(one.figures().held for one in lanes)


def small(world: MemoryLanes, **changes: object) -> MemoryLanes:
    """A lane that has room for few, and parks soon."""
    return world.changed(**{**PARKS_SOON, "park_after_s": 0.02, **changes})


async def test_a_user_who_floods_does_not_starve_the_others(world: MemoryLanes) -> None:
    world = small(world)
    async with running_lanes(world) as lanes, upstream(world) as program:
        for number in range(60):
            await program.publish(
                {"user_id": "ada", "request_id": f"a{number}", "input": "slow: 0.02; say: x"}
            )
        await read_topic(world, DECISIONS, Decision, count=60)
        # Their records are done with, though they wait: others may come.
        await eventually(lambda: held(lanes) <= world.settings.runs_in_flight_max)
        for number in range(4):
            await program.publish(
                {"user_id": "bob", "request_id": f"b{number}", "input": "slow: 0.02; say: x"}
            )
        results = await read_topic(world, RESULTS, AgentResult, count=64)
        await eventually(lambda: waiting(lanes) == 0)
    order = [result.request_id for result in results]
    assert {result.status for result in results} == {"completed"}
    assert len(set(order)) == 64
    last_of_bob = max(order.index(f"b{number}") for number in range(4))
    assert last_of_bob < 40
    assert await open_keys(world, PARKED) == set()


async def test_a_long_run_is_acknowledged_before_it_ends(world: MemoryLanes) -> None:
    world = small(world)
    async with running_lanes(world) as lanes, upstream(world) as program:
        await program.publish({"user_id": "ada", "request_id": "r1", "input": "hang"})
        await read_topic(world, PARKED, RunParked, count=1)
        await eventually(lambda: held(lanes) == 0)
        assert waiting(lanes) == 0  # it runs on
        await give(world, program, "cancel", request_id="r1")
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.status == "cancelled"
    assert await open_keys(world, PARKED) == set()


async def test_a_run_whose_result_is_on_its_way_is_not_parked_any_more(world: MemoryLanes) -> None:
    world = small(world, runs_in_flight_max=2)
    results = TopicPartition(world.topic(RESULTS), home_partition("ada", world.settings.partitions))
    long = compound_key("default", "ada", "long").encode()

    def asks_to_park(owner: OneLane) -> set[bytes | None]:
        """Give whose parking waits for its commit."""
        waiting = owner.lane._committer._waiting
        records = [record for member in waiting for record in member.records]
        return {one.encoded.key for one in records if one.topic == world.topic(PARKED)}

    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        with world.broker.unacknowledged(world.topic(RESULTS)):
            owner.serve(*await ask(program, "say: x", request_id="ending", session_id="s"))
            await eventually(lambda: world.broker.partition(results).high_watermark == 1)
            owner.serve(*await ask(program, "hang", request_id="long"))
            owner.serve(*await ask(program, "say: x", request_id="next", session_id="s"))
            await eventually(lambda: long in asks_to_park(owner))
        await read_topic(world, RESULTS, AgentResult, count=2)
    assert await open_keys(world, PARKED) == {long}


async def test_a_run_that_waits_long_for_its_next_attempt_leaves_the_lane_free(
    world: MemoryLanes,
) -> None:
    world = small(world, runs_in_flight_max=2, runs_per_user_max=1)
    world = world.limited(wait_in_memory_max_s=0.1)
    patient = AgentTemplate(
        name="patient",
        kind="chat",
        retry=RetryPolicy(attempts_max=2, backoff_first_s=0.2, jitter=0),
    )
    templates = (*BUILT_IN_TEMPLATES, patient)
    lanes = running_lanes(world, templates=templates)
    async with lanes, upstream(world) as program:
        for number in range(6):
            await program.publish(
                {
                    "user_id": "ada",
                    "session_id": f"s{number}",
                    "request_id": f"r{number}",
                    "template": "patient",
                    "input": "retry: the provider is away",
                }
            )
        await program.publish(
            {"user_id": "ada", "session_id": "s0", "request_id": "behind", "input": "behind"}
        )
        await program.publish({"user_id": "bob", "request_id": "other", "input": "x"})
        (first, *rest) = await read_topic(world, RESULTS, AgentResult, count=8)
    assert first.request_id == "other"
    by_id = {result.request_id: result for result in rest}
    assert by_id["behind"].status == "completed"
    assert [by_id[f"r{number}"].status for number in range(6)] == ["failed"] * 6
    order = [result.request_id for result in rest]
    assert order.index("r0") < order.index("behind")
    assert {by_id[f"r{number}"].attempt for number in range(6)} == {1001}


async def test_a_run_whose_next_attempt_is_far_off_has_no_place_in_memory(
    world: MemoryLanes,
) -> None:
    world = small(world, runs_in_flight_max=1, runs_per_user_max=1, park_after_s=3600)
    retry = RetryPolicy(backoff_first_s=60, backoff_max_s=60, jitter=0)
    patient = AgentTemplate(name="patient", retry=retry)
    running = running_lanes(world, templates=(*BUILT_IN_TEMPLATES, patient))
    async with running as lanes, upstream(world) as program:
        await program.publish(
            {"user_id": "ada", "request_id": "r1", "template": "patient", "input": "retry: later"}
        )
        await eventually(lambda: waiting(lanes) == 1, timeout_s=30)
        await program.publish({"user_id": "bob", "request_id": "r2", "input": "say: x"})
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
        assert waiting(lanes) == 1
        await eventually(lambda: held(lanes) == 0)
    assert (result.request_id, result.status) == ("r2", "completed")


async def test_a_provider_that_says_when_to_come_back_is_not_asked_earlier(
    world: MemoryLanes,
) -> None:
    asked_at_s: list[float] = []

    async def busy(request: ResolvedRequest, _plan: RunPlan, **run: Any) -> RunOutcome:
        asked_at_s.append(asyncio.get_running_loop().time())
        reason = reason_of(ModelFailed("later", retry_after_s=0.3))
        failed = result_of(request, at_ms=0, status="failed", attempt=run["attempt"], reason=reason)
        return RunOutcome(failed, checkpoint=None, retryable=True, retry_after_s=0.3)

    async with lane_services(world) as services, upstream(world) as program:
        refused = dataclasses.replace(services, run_agent=busy)
        async with one_lane(world, refused, None) as owner:
            owner.serve(*await ask(program, "x"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    waits_s = [later - earlier for earlier, later in pairwise(asked_at_s)]
    assert len(waits_s) == RetryPolicy().attempts_max - 1
    assert min(waits_s) > 0.29  # its wait is kept in whole milliseconds of another clock
    assert result.reason is not None
    assert (result.reason.code, result.reason.retry_after_s) == ("model_failed", 0.3)


@pytest.mark.parametrize("target", [{"request_id": "r1"}, {"session_id": "s"}])
async def test_what_is_paused_waits_through_a_new_owner_until_it_is_resumed(
    world: MemoryLanes, target: dict[str, str]
) -> None:
    world = small(world)

    def ask(number: int, session: str = "s") -> dict[str, Any]:
        return {
            "user_id": "ada",
            "session_id": session,
            "request_id": f"r{number}",
            "input": f"say: {number}",
        }

    async with upstream(world) as program:
        async with running_lanes(world) as lanes:
            await give(world, program, "pause", **target)
            await read_topic(world, HOLDS, HoldPlaced, count=1)
            for number in (1, 2):
                await program.publish(ask(number))
            await program.publish(ask(3, "another"))
            (other,) = await read_topic(world, RESULTS, AgentResult, count=1)
            assert other.request_id == "r3"
            await eventually(lambda: waiting(lanes) == 2)
        async with running_lanes(world) as lanes:
            await program.publish(ask(4, "another"))
            await read_topic(world, RESULTS, AgentResult, count=2)
            assert waiting(lanes) == 2
            await give(world, program, "resume", **target)
            results = await read_topic(world, RESULTS, AgentResult, count=4)
    assert [result.request_id for result in results] == ["r3", "r4", "r1", "r2"]
    assert {result.status for result in results} == {"completed"}
    assert await open_keys(world, HOLDS) == set()
    assert await open_keys(world, PARKED) == set()


async def test_a_run_under_way_stops_before_its_next_call_and_is_begun_anew(
    world: MemoryLanes,
) -> None:
    world = small(world)
    async with running_lanes(world) as lanes, upstream(world) as program:
        await program.publish(
            {
                "user_id": "ada",
                "request_id": "r1",
                "template": "react_agent",
                "input": "slow: 0.2; call: current_time {}; say: done",
            }
        )
        await read_topic(world, DECISIONS, Decision, count=1)
        await give(world, program, "pause", request_id="r1")
        await eventually(lambda: waiting(lanes) == 1)
        await give(world, program, "resume", request_id="r1")
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.attempt) == ("completed", 1001)
    tokens = await read_whole(world, TOKENS, AgentToken)
    assert [(token.attempt, token.text) for token in tokens] == [(1001, ""), (1001, "done")]


async def test_what_is_paused_can_be_cancelled(world: MemoryLanes) -> None:
    world = small(world)
    async with running_lanes(world) as lanes, upstream(world) as program:
        await give(world, program, "pause", session_id="s")
        await give(world, program, "pause", request_id="r2")
        await read_topic(world, HOLDS, HoldPlaced, count=2)
        for number in (1, 2):
            await program.publish(
                {
                    "user_id": "ada",
                    "session_id": "s",
                    "request_id": f"r{number}",
                    "input": "x",
                    "metadata": {"order": str(number)},
                }
            )
        await eventually(lambda: waiting(lanes) == 2)
        await give(world, program, "cancel", request_id="r2")
        (second,) = await read_topic(world, RESULTS, AgentResult, count=1)
        await give(world, program, "cancel", session_id="s")
        await read_topic(world, RESULTS, AgentResult, count=2)
    assert (second.request_id, second.status) == ("r2", "cancelled")
    assert second.metadata == {"order": "2"}
    assert await open_keys(world, PARKED) == set()
    session = HoldPlaced(tenant="default", user_id="ada", session_id="s")
    assert await open_keys(world, HOLDS) == {session.record_key.encode()}


async def test_a_user_who_fills_half_of_the_line_is_read_no_further_until_there_is_room(
    world: MemoryLanes,
) -> None:
    world = small(world, parked_max=10, runs_in_flight_max=4, runs_per_user_max=1)
    async with running_lanes(world) as lanes, upstream(world) as program:
        await give(world, program, "pause", session_id="s")
        await read_topic(world, HOLDS, HoldPlaced, count=1)
        for number in range(30):
            await program.publish(
                {"user_id": "ada", "session_id": "s", "request_id": f"r{number}", "input": "x"}
            )
        await eventually(lambda: waiting(lanes) >= 5)
        # Commands come through all the same, and not only the first one.
        for name in ("another", "one more", "s"):
            await give(world, program, "resume", session_id=name)
        results = await read_topic(world, RESULTS, AgentResult, count=30)
    assert [result.request_id for result in results] == [f"r{number}" for number in range(30)]


async def test_those_behind_a_paused_request_run_when_it_is_cancelled(world: MemoryLanes) -> None:
    world = small(world)
    async with running_lanes(world) as lanes, upstream(world) as program:
        await give(world, program, "pause", request_id="r1")
        await read_topic(world, HOLDS, HoldPlaced, count=1)
        for number in (1, 2):
            await program.publish(
                {"user_id": "ada", "session_id": "s", "request_id": f"r{number}", "input": "x"}
            )
        await eventually(lambda: waiting(lanes) == 2)
        await give(world, program, "cancel", request_id="r1")
        results = await read_topic(world, RESULTS, AgentResult, count=2)
    assert [(one.request_id, one.status) for one in results] == [
        ("r1", "cancelled"),
        ("r2", "completed"),
    ]


@pytest.mark.promise("P3")
async def test_an_attempt_that_had_no_room_at_first_says_that_it_follows_another(
    world: MemoryLanes,
) -> None:
    few = {"partitions": 1, "runs_in_flight_max": 2, "runs_per_user_max": 1, "park_after_s": 60}
    world = world.changed(**few)
    async with lane_services(world) as services, upstream(world) as program:
        ahead = await ask(program, "hang", request_id="ahead", session_id="a")
        asked = await ask(program, "pace: 0.01; tokens: 40", session_id="b")
        async with one_lane(world, services, None) as lost:
            lost.serve(*asked)
            await read_topic(world, TOKENS, AgentToken, count=3)
        async with one_lane(world, services, None) as owner:
            owner.serve(*ahead)
            owner.serve(*asked)
            await read_topic(world, PARKED, RunParked, count=1)
            owner.serve(*await give(world, program, "cancel", request_id="ahead"))
            await read_topic(world, RESULTS, AgentResult, count=2)
    tokens = [one for one in await read_whole(world, TOKENS, AgentToken) if one.request_id == "r1"]
    first_of = {one.attempt: one for one in tokens if one.seq == 0}
    assert [bool(first_of[attempt].text) for attempt in sorted(first_of)] == [True, False]
