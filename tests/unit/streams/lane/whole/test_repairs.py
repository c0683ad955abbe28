"""A structured answer that does not fit is given anew, by one higher attempt."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.middleware.policy import Policy
from millstream.schemas.events import AgentResult, AgentToken, CostRecorded
from millstream.schemas.lane_events import RunParked
from millstream.schemas.topics import COSTS, PARKED, RESULTS, TOKENS
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    upstream,
)

pytestmark = pytest.mark.promise("P3")

SCHEMA = {
    "title": "Sum",
    "description": "A sum",
    "type": "object",
    "properties": {"n": {"type": "number"}},
    "required": ["n"],
}
PRICED = Policy.from_yaml(
    "prices: {scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}", "test"
)


def template(**fields: Any) -> AgentTemplate:
    """Give a structured template that is never tried again by its retries."""
    given = {
        "name": "sums",
        "kind": "structured",
        "response_format": SCHEMA,
        "retry": RetryPolicy(attempts_max=1),
        **fields,
    }
    return AgentTemplate.model_validate(given)


async def answered(
    world: MemoryLanes, *scripts: str, rules: Policy | None = None, **fields: Any
) -> list[AgentResult]:
    """Give the results of requests of one session, one after another."""
    results: list[AgentResult] = []
    templates = (*BUILT_IN_TEMPLATES, template(**fields))
    async with (
        lane_services(world, templates=templates) as services,
        upstream(world) as program,
        one_lane(world, services, rules) as owner,
    ):
        for count, script in enumerate(scripts, 1):
            served = await ask(
                program, script, template="sums", session_id="s", request_id=f"r{count}"
            )
            owner.serve(*served)
            results = await read_topic(world, RESULTS, AgentResult, count=count)
    return results


@pytest.mark.parametrize(
    "wrong",
    [
        "say: certainly",
        'say: here it is: {"n": 1}',
        'say: {"n": 1, "n": 2}',
        'say: {"n": NaN}',
        'say: {"n": "1"}',
        "say: {}",
        "say: [1]",
        'call: Sum {"n": "one"}',
        'call: Sum {"n": 1} + Sum {"n": 2}',
    ],
)
async def test_an_answer_that_does_not_fit_is_given_anew_by_a_higher_attempt(
    world: MemoryLanes, wrong: str
) -> None:
    (result,) = await answered(world, f'{wrong}; say: {{"n": 3}}', rules=PRICED)
    assert (result.status, result.structured, result.attempt) == ("completed", {"n": 3}, 1001)
    assert result.output == '{"n": 3}'
    tokens = await read_whole(world, TOKENS, AgentToken)
    newest = [one for one in tokens if one.attempt == 1001]
    assert [one.seq for one in newest] == [*range(result.last_seq + 1)]
    assert "".join(one.text for one in newest) == result.output
    costs = await read_whole(world, COSTS, CostRecorded)
    assert {one.attempt for one in costs} == {1000, 1001}
    assert sum(one.cost_micros for one in costs) == result.cost_micros > 0


async def test_an_answer_in_a_fence_of_markdown_needs_no_repair(world: MemoryLanes) -> None:
    (result,) = await answered(world, 'say: ```json\n{"n": 3}\n```')
    assert (result.status, result.structured, result.attempt) == ("completed", {"n": 3}, 1000)


async def test_a_second_answer_that_does_not_fit_fails_and_says_where(world: MemoryLanes) -> None:
    script = 'call: Sum {"n": "1"}; call: Sum {"n": "2"}; say: {"n": 3}'
    (result,) = await answered(world, script)
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "answer_invalid")
    assert "at $.n: '2' is not of type 'number'" in result.reason.message
    assert result.attempt == 1001


@pytest.mark.parametrize(("repairs_max", "attempt"), [(0, 1000), (2, 1002)])
async def test_the_template_says_how_often_an_answer_is_given_anew(
    world: MemoryLanes, repairs_max: int, attempt: int
) -> None:
    # Told of one wrong answer only, the newest, the script plays its second turn again.
    (result,) = await answered(world, "say: a; say: b", repairs_max=repairs_max)
    assert (result.status, result.attempt) == ("failed", attempt)


async def test_a_session_does_not_remember_the_wrong_answer(world: MemoryLanes) -> None:
    mended, straight = await answered(world, 'say: a b c; say: {"n": 3}', 'say: {"n": 4}')
    assert mended.attempt == 1001
    # In words: the first question (7), its right answer (2), and the second question (3).
    assert straight.usage.input_tokens == 7 + 2 + 3


async def test_tools_that_were_called_are_not_called_again_for_a_repair(
    world: MemoryLanes,
) -> None:
    script = 'call: calculator {"expression": "1 + 2"}; say: three; say: {"n": {tool_result}}'
    (result,) = await answered(world, script, tools=["calculator"], repairs_max=1)
    assert (result.status, result.structured, result.attempt) == ("completed", {"n": 3}, 1001)
    assert result.output == '{"n": 3}'


async def test_a_schema_tool_that_is_called_beside_a_real_one_ends_the_run(
    world: MemoryLanes,
) -> None:
    script = 'call: calculator {"expression": "1 + 2"} + Sum {"n": 3}; say: no'
    (result,) = await answered(world, script, tools=["calculator"])
    assert (result.status, result.structured) == ("completed", {"n": 3})


async def test_a_repair_survives_a_change_of_owner(world: MemoryLanes) -> None:
    script = 'say: a; retry: later; say: {"n": 3}'
    retry = RetryPolicy(attempts_max=2, backoff_first_s=60, backoff_max_s=60, jitter=0)
    templates = (*BUILT_IN_TEMPLATES, template(retry=retry))
    async with (
        lane_services(world, templates=templates) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await ask(program, script, template="sums"))
        (parked,) = await read_topic(world, PARKED, RunParked, count=1)
    assert (parked.repairs, parked.failures, parked.tries) == (1, 1, 2)
    assert parked.repair is not None
    assert parked.repair.answer == "a"
    assert "JSON" in parked.repair.problem
