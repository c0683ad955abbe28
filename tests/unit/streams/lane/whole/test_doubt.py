"""Runs whose calls had effects: they wait for their retry in memory, or end in doubt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from millstream.agents.loop.calls import Calls
from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import RunParked
from millstream.schemas.topics import PARKED, RESULTS
from millstream.streams.lane.runs.doubt import doubt_before
from millstream.streams.wire.codec import decode
from tests.harness.memory_lanes import MemoryLanes, read_topic, read_whole
from tests.harness.odd_runs import RAISES, odd_lane
from tests.support import eventually


def clerk(**fields: Any) -> AgentTemplate:
    return AgentTemplate(name="clerk", **fields)


async def result_of(world: MemoryLanes, text: str, template: AgentTemplate) -> AgentResult:
    """Run one request in a lane of its own."""
    async with odd_lane(world, templates=[template]) as lane:
        await lane.submit("r1", text, template="clerk")
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    return result


@pytest.mark.parametrize("text", [*RAISES, "cancels itself"])
async def test_whatever_a_run_raises_it_has_one_result_and_the_sessions_next_run_starts(
    world: MemoryLanes, text: str
) -> None:
    async with odd_lane(world) as lane:
        await lane.submit("r1", text)
        await lane.submit("r2")
        results = await read_topic(world, RESULTS, AgentResult, count=2)
    assert [(one.request_id, one.status) for one in results] == [
        ("r1", "failed"),
        ("r2", "completed"),
    ]


async def test_a_run_with_an_effect_waits_in_memory_for_its_retry_which_knows_its_calls(
    world: MemoryLanes,
) -> None:
    # Longer than what waits in memory otherwise.
    retry = RetryPolicy(backoff_first_s=1.2, jitter=0)
    result = await result_of(world, "refunds", clerk(retry=retry))
    assert (result.status, result.output, result.attempt % 1000) == ("completed", "1", 1)
    records = (one for where in world.places(PARKED) for one in world.broker.records(where))
    (parked,) = (decode(one, RunParked) for one in records if one.value is not None)
    assert parked.effects == ("refund",)


async def test_a_run_with_an_effect_whose_retry_is_far_waits_on_the_log(
    world: MemoryLanes,
) -> None:
    retry = RetryPolicy(backoff_first_s=60, backoff_max_s=600, jitter=0)
    async with odd_lane(world, templates=[clerk(retry=retry, effects_wait_s=10)]) as lane:
        await lane.submit("r1", "refunds", template="clerk")
        parked = await read_topic(world, PARKED, RunParked, count=1)
        await eventually(lambda: lane.owner.lane.waiting == 1)
    assert parked[-1].effects == ("refund",)
    assert await read_whole(world, RESULTS, AgentResult) == []


@pytest.mark.parametrize(
    ("in_doubt", "code", "attempt"), [("fail", "in_doubt", 0), ("retry", "model_failed", 2)]
)
async def test_a_run_whose_call_gave_no_answer_ends_in_doubt_unless_its_template_retries(
    world: MemoryLanes, in_doubt: str, code: str, attempt: int
) -> None:
    retry = RetryPolicy(backoff_first_s=0, attempts_max=3)
    result = await result_of(world, "pays", clerk(retry=retry, in_doubt=in_doubt))
    assert result.reason is not None
    assert (result.reason.code, result.attempt % 1000) == (code, attempt)
    assert ("pay (c2)" in result.reason.message) == (code == "in_doubt")


async def test_what_a_parked_run_called_is_found_again_or_leaves_it_in_doubt(
    world: MemoryLanes,
) -> None:
    async with odd_lane(world, templates=[clerk()]) as lane:
        await lane.submit("r1", "hang", template="clerk")
        run = lane.run("r1")
        assert doubt_before(run, unjournalled=False) is None
        run.calls = Calls(forgotten=("refund",))
        assert "refund" in str(doubt_before(run, unjournalled=False))
        run.calls = Calls()
        assert doubt_before(run, unjournalled=True) is None


async def test_a_run_that_lost_its_worker_is_in_doubt_if_its_tools_have_effects(
    world: MemoryLanes,
) -> None:
    async with odd_lane(world, templates=[clerk()]) as lane:
        await lane.submit("r1", "hang", template="clerk")
        run = lane.run("r1")
        assert run.admission.plan is not None
        template = run.plan.template.model_copy(update={"tools": ("find", "mail", "refund")})
        plan = replace(run.plan, template=template, effects=("mail", "refund"))
        run.admission = replace(run.admission, plan=plan)
        # Not what only reads.
        assert str(doubt_before(run, unjournalled=True)).endswith("any of: mail, refund")
        retries = template.model_copy(update={"in_doubt": "retry"})
        run.admission = replace(run.admission, plan=replace(plan, template=retries))
        assert doubt_before(run, unjournalled=True) is None
