"""A journalled run that is paused, parked, cancelled or out of time, in each of its gaps."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from langchain_core.messages import AIMessage

from millstream.agents.executor import wall_clock_ms
from millstream.agents.templates.retry import RetryPolicy
from millstream.schemas.errors import ModelFailed
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import HoldPlaced, RunParked
from millstream.schemas.topics import HOLDS, PARKED, RESULTS, catalogue
from tests.fakes.odd_models import OddModel
from tests.harness.journalled import CLERK, Hold, Outside, clerk, journal_of, run_through
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    give,
    lane_services,
    one_lane,
    read_topic,
    upstream,
)
from tests.support import eventually

pytestmark = pytest.mark.promise("P2")

PUT = AIMessage("", tool_calls=[{"name": "put", "args": {"n": 1}, "id": "c", "type": "tool_call"}])
TEXT = 'call: put {"n": 1}; call: look {"n": 2} + pay {"n": 3}; say: done'
GAPS = [
    *(Hold(at, number) for number in (0, 1) for at in ("asked", "said", "begun", "ended")),
    Hold("asked", 2),
]
READER = clerk(tools=("look",), steps="none")
IDS = [f"{one.at} {one.number}" for one in GAPS]


@pytest.mark.parametrize("owners", [1, 2])
# Its last call is one that may be made, and ends it.
@pytest.mark.parametrize("gap", GAPS[:-1], ids=IDS[:-1])
async def test_a_run_that_is_paused_goes_on_behind_what_it_did_at_whichever_owner(
    world: MemoryLanes, gap: Hold, owners: int
) -> None:
    outside = Outside(timeout_s=5)
    outside.begin_worker(gap)
    of_factory = {"tools": outside.tools()}
    async with (
        upstream(world) as program,
        lane_services(world, outside, [CLERK], **of_factory) as services,
    ):
        async with one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, TEXT, template="clerk"))
            await asyncio.wait_for(outside.is_held.wait(), 10)
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            await read_topic(world, HOLDS, HoldPlaced, count=1)
            outside.goes_on.set()
            await eventually(lambda: owner.lane.waiting == 1)
            if owners == 1:
                owner.serve(*await give(world, program, "resume", request_id="r1"))
                (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
        if owners == 2:
            async with one_lane(world, services, None) as owner:
                owner.serve(*await give(world, program, "resume", request_id="r1"))
                (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.output) == ("completed", "done")
    assert sorted(name for name, _ in outside.begun) == ["look 2", "pay 3", "put 1"]
    assert len(outside.models) == 3
    assert [one.step for one in await journal_of(world)] == list(range(7))


@pytest.mark.parametrize("gap", GAPS, ids=IDS)
async def test_a_run_that_is_cancelled_leaves_nothing_behind_and_its_session_goes_on(
    world: MemoryLanes, gap: Hold
) -> None:
    outside = Outside(timeout_s=5)
    outside.begin_worker(gap)
    async with (
        upstream(world) as program,
        lane_services(world, outside, [CLERK], tools=outside.tools()) as services,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await ask(program, TEXT, template="clerk", session_id="s"))
        await asyncio.wait_for(outside.is_held.wait(), 10)
        owner.serve(*await give(world, program, "cancel", request_id="r1"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
        assert result.status == "cancelled"
        outside.begin_worker(None)
        again = await ask(program, TEXT, template="clerk", session_id="s", request_id="r2")
        owner.serve(*again)
        result = (await read_topic(world, RESULTS, AgentResult, count=2))[-1]
        assert (result.status, result.output) == ("completed", "done")
        state = owner.lane._state
        assert state.journals.open == {}
    # As whoever reads the topics from their beginning has it.
    async with (
        lane_services(world, outside, [CLERK], tools=outside.tools()) as services,
        one_lane(world, services, None) as owner,
    ):
        assert owner.lane._state.journals.open == {}


@pytest.mark.parametrize("gap", GAPS, ids=IDS)
async def test_a_run_whose_time_is_over_at_its_next_owner_expires_and_makes_no_call(
    world: MemoryLanes, gap: Hold
) -> None:
    outside = Outside()
    outside.begin_worker(gap)
    template, of_factory = clerk(request_timeout_s=60), {"tools": outside.tools()}
    async with (
        upstream(world) as program,
        lane_services(world, outside, [template], **of_factory) as services,
    ):
        asked = await ask(program, TEXT, template="clerk")
        async with one_lane(world, services, None) as owner:
            owner.serve(*asked)
            await asyncio.wait_for(outside.is_held.wait(), 10)
        outside.begin_worker(None)
        later = replace(services, clock_ms=lambda: wall_clock_ms() + 61_000)
        async with one_lane(world, later, None) as owner:
            owner.serve(*asked)
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "request_timed_out")
    assert outside.attempts == {1000}


async def test_a_run_whose_retry_is_far_waits_on_the_log_and_goes_on_behind_what_it_did(
    world: MemoryLanes,
) -> None:
    outside = Outside()
    retry = RetryPolicy(backoff_first_s=60, backoff_max_s=60, jitter=0)
    main = OddModel(says=[PUT, ModelFailed("overloaded"), AIMessage("done")])
    of_factory = {"tools": outside.tools(), "resolve": lambda *_, **__: main}
    template = clerk(retry=retry)
    async with (
        upstream(world) as program,
        lane_services(world, outside, [template], **of_factory) as services,
    ):
        asked = await ask(program, "x", template="clerk")
        async with one_lane(world, services, None) as owner:
            owner.serve(*asked)
            await eventually(lambda: owner.lane.waiting == 1)
            parked = (await read_topic(world, PARKED, RunParked, count=1))[-1]
        assert (parked.journal_from is not None, parked.journal_steps) == (True, 3)
        later = replace(services, clock_ms=lambda: wall_clock_ms() + 61_000)
        async with one_lane(world, later, None):
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.output) == ("completed", "done")
    assert [name for name, _ in outside.begun] == ["put 1"]
    assert len(main.seen) == 3


async def test_a_run_that_makes_a_single_call_costs_no_record_more_than_one_without_a_loop(
    world: MemoryLanes,
) -> None:
    chats = MemoryLanes()
    await run_through(chats, Outside(), "say: hello", [None], template="chat_agent")
    result = await run_through(world, Outside(), "say: hello", [None], [READER])
    assert (result.status, result.output) == ("completed", "hello")
    assert records(world) == records(chats)
    assert records(world)["journal"] == 0


def records(world: MemoryLanes) -> dict[str, int]:
    """Count the records of each topic, with those that end transactions."""
    return {
        spec.name: sum(len(world.broker.records(where)) for where in world.places(spec))
        for spec in catalogue(world.settings.chain_cuts)
    }
