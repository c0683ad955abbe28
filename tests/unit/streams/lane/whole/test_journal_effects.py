"""A worker that is lost inside a call, or between a call and its record: by the tool's effect."""

from __future__ import annotations

import json

import pytest

from millstream.schemas.events import AgentResult
from tests.harness.journalled import Hold, Outside, clerk, journal_of, run_through
from tests.harness.memory_lanes import MemoryLanes

pytestmark = pytest.mark.promise("P2")

LOST = (Hold("begun"), Hold("happened"), Hold("ended"))


def script(name: str) -> str:
    return f'call: {name} {{"n": 7}}; say: {{tool_result}}'


@pytest.mark.parametrize("lost", LOST, ids=lambda one: one.at)
@pytest.mark.parametrize("name", ["look", "put"])
async def test_what_may_be_made_again_is_made_again_with_the_same_key(
    world: MemoryLanes, name: str, lost: Hold
) -> None:
    outside = Outside()
    result = await run_through(world, outside, script(name), (lost, None))
    assert (result.status, result.output) == ("completed", f"did {name} 7")
    assert len(outside.begun) == 2
    assert len({key for _, key in outside.begun}) == 1
    steps = await journal_of(world)
    intents = [one for one in steps if one.kind == "intent"]
    assert [(one.key, one.effect) for one in intents] == (
        [] if name == "look" else [(outside.begun[0][1], "idempotent")]
    )


@pytest.mark.parametrize("lost", LOST, ids=lambda one: one.at)
async def test_what_can_be_asked_about_is_asked_once_its_time_is_over_and_happens_once(
    world: MemoryLanes, lost: Hold
) -> None:
    outside = Outside()
    result = await run_through(world, outside, script("pay"), (lost, None))
    assert (result.status, result.output) == ("completed", "did pay 7")
    assert len(outside.happened) == 1
    assert len(outside.begun) == 1 + (lost.at == "begun")
    assert len({key for _, key in outside.begun}) == 1
    (intent,) = (one for one in await journal_of(world) if one.kind == "intent")
    assert intent.until_ms is not None
    (asked,) = outside.asked
    assert asked >= intent.until_ms


@pytest.mark.parametrize("lost", LOST, ids=lambda one: one.at)
async def test_what_only_a_person_can_judge_ends_in_doubt_and_says_what_when_and_with_what(
    world: MemoryLanes, lost: Hold
) -> None:
    outside = Outside()
    result = await run_through(world, outside, script("mail"), (lost, None))
    assert_in_doubt(result, "mail (call_1_0)", 'with {"n": 7}', "called at 20")
    assert len(outside.begun) == 1
    (intent,) = (one for one in await journal_of(world) if one.kind == "intent")
    assert json.loads(intent.arguments or "") == {"n": 7}


@pytest.mark.parametrize("lost", LOST, ids=lambda one: one.at)
async def test_a_template_that_retries_makes_again_also_what_only_a_person_can_judge(
    world: MemoryLanes, lost: Hold
) -> None:
    outside = Outside()
    retries = clerk(in_doubt="retry")
    result = await run_through(world, outside, script("mail"), (lost, None), [retries])
    assert (result.status, result.output) == ("completed", "did mail 7")
    assert len({key for _, key in outside.begun}) == 1
    assert len(outside.begun) == 2


async def test_a_call_that_is_recorded_is_made_once_though_its_worker_is_lost_behind_it(
    world: MemoryLanes,
) -> None:
    outside = Outside()
    text = "; ".join(f'call: {name} {{"n": 7}}' for name in ("look", "put", "pay", "mail"))
    result = await run_through(world, outside, f"{text}; say: done", (Hold("asked", 4), None))
    assert (result.status, result.output) == ("completed", "done")
    assert [name for name, _ in outside.begun] == ["look 7", "put 7", "pay 7", "mail 7"]
    assert outside.asked == []


async def test_calls_of_several_effects_that_are_lost_together_are_each_settled_by_its_own(
    world: MemoryLanes,
) -> None:
    outside = Outside()
    text = 'call: look {"n": 1} + put {"n": 2} + pay {"n": 3}; say: done'
    result = await run_through(world, outside, text, (Hold("happened", 2), None))
    assert (result.status, result.output) == ("completed", "done")
    assert len(outside.asked) == 1
    assert [one for one, _ in outside.happened].count("pay 3") == 1
    keys = {
        name: {key for other, key in outside.begun if other == name} for name, _ in outside.begun
    }
    assert all(len(one) == 1 for one in keys.values())


async def test_a_worker_that_is_lost_again_and_again_inside_one_call_settles_it_all_the_same(
    world: MemoryLanes,
) -> None:
    outside = Outside()
    holds = [Hold("begun"), Hold("begun"), Hold("happened"), None]
    result = await run_through(world, outside, script("put"), holds)
    assert (result.status, result.output) == ("completed", "did put 7")
    assert len(outside.begun) == 4
    assert len({key for _, key in outside.begun}) == 1
    assert [one.kind for one in await journal_of(world)] == ["answered", "intent", "done"]


def assert_in_doubt(result: AgentResult, *words: str) -> None:
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "in_doubt")
    assert [word for word in words if word not in result.reason.message] == []
