"""Steps of runs on their topic, whatever becomes of an attempt, its lane or its worker."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.agents.loop.telling.events import CallbackEvent
from millstream.agents.loop.telling.listeners import Listener, Listeners
from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import RunParked
from millstream.schemas.steps import AgentStep
from millstream.schemas.topics import PARKED, RESULTS, STEPS
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    give,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    upstream,
)
from tests.harness.step_runs import kinds, require_sound
from tests.support import eventually

pytestmark = pytest.mark.promise("P3")

CALLS = 'call: calculator {"expression": "12*12"}'
BEGUN = ["model_start", "model_end", "tool_start", "tool_end", "model_start"]
RETRIES = AgentTemplate(
    name="retries",
    kind="react",
    tools=("calculator",),
    retry=RetryPolicy(attempts_max=2, backoff_first_s=0.01),
)


async def steps_of(world: MemoryLanes) -> list[AgentStep]:
    steps = await read_whole(world, STEPS, AgentStep)
    require_sound(steps)
    return steps


async def test_a_result_names_how_many_steps_its_attempt_has(world: MemoryLanes) -> None:
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await ask(program, f"{CALLS}; say: x", template="react_agent"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    steps = await steps_of(world)
    assert kinds(steps) == [*BEGUN, "model_end"]
    assert result.steps == len(steps)


async def test_an_agent_without_tools_has_no_steps(world: MemoryLanes) -> None:
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await ask(program, "say: x"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert await steps_of(world) == []
    assert result.steps is None


async def test_a_further_attempt_says_why_it_follows(world: MemoryLanes) -> None:
    templates = (*BUILT_IN_TEMPLATES, RETRIES)
    async with (
        lane_services(world, templates=templates) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        asked = await ask(program, f"{CALLS}; retry: overloaded", template="retries")
        owner.serve(*asked)
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    steps = await steps_of(world)
    assert kinds(steps) == [*BEGUN, "model_error", "retry", *BEGUN, "model_error"]
    again = next(step for step in steps if step.kind == "retry")
    assert (again.seq, again.attempt) == (0, result.attempt)
    assert again.reason is not None
    assert "overloaded" in again.reason.message


async def test_a_model_that_fails_is_told_with_the_one_that_is_asked_instead(
    world: MemoryLanes,
) -> None:
    two = AgentTemplate(
        name="two",
        kind="react",
        tools=("calculator",),
        models=("scripted:retry: out of order", "scripted:say: here I am"),
        retry=RetryPolicy(backoff_first_s=0.01),
    )
    async with (
        lane_services(world, templates=(*BUILT_IN_TEMPLATES, two)) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await ask(program, "anybody there?", template="two"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    steps = await steps_of(world)
    assert (result.status, result.output) == ("completed", "here I am")
    assert kinds(steps) == ["model_start", "model_error", "fallback", "model_start", "model_end"]
    follows = steps[2]
    assert (follows.seq, follows.name, follows.failed_model) == (0, *two.models[::-1])
    assert follows.reason is not None
    assert "out of order" in follows.reason.message
    assert result.steps == len([step for step in steps if step.attempt == result.attempt])


async def test_the_next_owner_of_a_lost_attempt_says_that_it_begins_anew(
    world: MemoryLanes,
) -> None:
    async with lane_services(world) as services, upstream(world) as program:
        served = await ask(program, f"{CALLS}; hang", template="react_agent")
        async with one_lane(world, services, None) as owner:
            owner.serve(*served)
            await read_topic(world, STEPS, AgentStep, count=len(BEGUN))
        async with one_lane(world, services, None) as owner:
            owner.serve(*served)
            steps = await read_topic(world, STEPS, AgentStep, count=2 * len(BEGUN) + 1)
    require_sound(steps)
    assert kinds(steps) == [*BEGUN, "restart", *BEGUN]


async def test_a_cancel_ends_an_attempt_and_is_its_last_step(world: MemoryLanes) -> None:
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await ask(program, f"{CALLS}; hang", template="react_agent"))
        await read_topic(world, STEPS, AgentStep, count=len(BEGUN))
        owner.serve(*await give(world, program, "cancel", request_id="r1"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    steps = await steps_of(world)
    assert kinds(steps) == [*BEGUN, "cancelled"]
    assert (result.status, result.steps) == ("cancelled", len(steps))


async def test_a_run_goes_from_state_to_state(world: MemoryLanes) -> None:
    heard: list[CallbackEvent] = []
    told = Listeners([Listener(heard.append, kinds=frozenset({"state"}))])
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, replace(services, listeners=told), None) as owner,
    ):
        owner.serve(*await ask(program, "say: x"))
        await read_topic(world, RESULTS, AgentResult, count=1)
        owner.serve(*await ask(program, "fail: no", request_id="r2"))
        await read_topic(world, RESULTS, AgentResult, count=2)
        owner.serve(*await ask(program, "hang", request_id="r3"))
        owner.serve(*await give(world, program, "cancel", request_id="r3"))
        await read_topic(world, RESULTS, AgentResult, count=3)
    told.close()
    assert [(one.request_id, one.from_state, one.state) for one in heard][:4] == [
        ("r1", "idle", "running"),
        ("r1", "running", "stopped"),
        ("r2", "idle", "running"),
        ("r2", "running", "error"),
    ]
    assert (heard[-1].request_id, heard[-1].state) == ("r3", "stopped")


async def test_a_paused_attempt_ends_and_the_next_one_says_that_it_was_resumed(
    world: MemoryLanes,
) -> None:
    heard: list[CallbackEvent] = []
    told = Listeners([Listener(heard.append, kinds=frozenset({"state"}))])
    script = 'slow: 0.3; call: calculator {"expression": "1"}; say: x'
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, replace(services, listeners=told), None) as owner,
    ):
        owner.serve(*await ask(program, script, template="react_agent"))
        await read_topic(world, STEPS, AgentStep, count=1)
        owner.serve(*await give(world, program, "pause", request_id="r1"))
        await eventually(lambda: [one.state for one in heard][-1:] == ["paused"])
        owner.serve(*await give(world, program, "resume", request_id="r1"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    told.close()
    steps = await steps_of(world)
    assert result.status == "completed"
    first, second = sorted({step.attempt for step in steps})
    assert [step.kind for step in steps if step.attempt == first][-1] == "paused"
    assert next(step.kind for step in steps if step.attempt == second) == "resumed"
    assert [one.state for one in heard] == ["running", "paused", "idle", "running", "stopped"]


async def test_a_run_that_is_paused_while_it_waits_in_line_is_told_so(world: MemoryLanes) -> None:
    heard: list[CallbackEvent] = []
    told = Listeners([Listener(heard.append, kinds=frozenset({"state"}))])

    def states(request_id: str) -> list[str | None]:
        return [one.state for one in heard if one.request_id == request_id]

    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, replace(services, listeners=told), None) as owner,
    ):
        # One behind another of its session, and one of a session that is paused before it comes.
        owner.serve(*await ask(program, "hang", session_id="s"))
        owner.serve(*await ask(program, "say: x", session_id="s", request_id="r2"))
        owner.serve(*await give(world, program, "pause", request_id="r2"))
        await eventually(lambda: states("r2") == ["paused"])
        owner.serve(*await give(world, program, "pause", session_id="t"))
        owner.serve(*await ask(program, "say: x", session_id="t", request_id="r3"))
        await eventually(lambda: states("r3") == ["paused"])
        # What is resumed waits its turn; what is cancelled in line is over.
        owner.serve(*await give(world, program, "resume", request_id="r2"))
        await eventually(lambda: states("r2") == ["paused", "idle"])
        owner.serve(*await give(world, program, "cancel", request_id="r3"))
        await eventually(lambda: states("r3") == ["paused", "stopped"])
        owner.serve(*await give(world, program, "cancel", request_id="r1"))
        await read_topic(world, RESULTS, AgentResult, count=3)
    told.close()
    assert states("r2") == ["paused", "idle", "running", "stopped"]
    assert {(one.template, one.session_id) for one in heard} == {
        ("chat_agent", "s"),
        ("chat_agent", "t"),
    }


async def test_the_next_owner_tells_that_what_it_took_over_is_paused(world: MemoryLanes) -> None:
    heard: list[CallbackEvent] = []
    told = Listeners([Listener(heard.append, kinds=frozenset({"state"}))])
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            owner.serve(*await ask(program, "say: x"))
            await read_topic(world, PARKED, RunParked, count=1)
        async with one_lane(world, replace(services, listeners=told), None) as owner:
            owner.serve(*await ask(program, "say: y", request_id="r2"))
            await read_topic(world, RESULTS, AgentResult, count=1)
    told.close()
    assert [(one.request_id, one.state) for one in heard] == [
        ("r1", "paused"),
        ("r2", "running"),
        ("r2", "stopped"),
    ]
