"""What a run holds of its user's money: its next call, reserved before it is made.

Public reports: garrytan/gbrain#4365 and BerriAI/litellm#34732 (calls side by side that each fit by
themselves), BerriAI/litellm#35524 (a model whose price is not known), Agenta-AI/agenta#6341 and
gptme/gptme#1828 (what is reserved is many times what is used), paperclipai/paperclip#11276 (a run
that goes on beyond the cap), anthropics/claude-code#83412 and timescale/tiger-agents-for-work#274
(what was done is lost with the run that the cap ends), use-agent-os/agent-os#824 (what a crash
leaves reserved for ever).
"""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import StructuredTool

from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.templates.memory import TokenBudget
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import ToolRegistry, built_in_tools, tool
from millstream.middleware.cost import CostTrackingMiddleware
from millstream.middleware.policy import Policy
from millstream.schemas.events import (
    AgentResult,
    AttemptStarted,
    CostRecorded,
    Decision,
)
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.runs.reservations import CallReserved
from millstream.schemas.topics import ATTEMPTS, COSTS, DECISIONS, JOURNAL, RESERVATIONS, RESULTS
from tests.contracts.waiting_lane_contract import ADD, TWENTY
from tests.fakes.odd_models import Chooser, OddModel, calling
from tests.harness.journalled import Hold, Outside, clerk, run_through
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    running_lanes,
    upstream,
)

pytestmark = [pytest.mark.promise("P5")]

PRICE = "{input_usd_per_mtok: 3, output_usd_per_mtok: 15}"


def capped(usd: float) -> Policy:
    """Give a policy under which everybody may spend so much a day, at Sonnet's prices."""
    return Policy.from_yaml(
        f"prices: {{scripted: {PRICE}}}\ndefaults: {{spend: {{usd_per_day: {usd}}}}}", "test"
    )


def read_tools() -> ToolRegistry:
    """Give a tool that gives back as much as it is asked for."""

    @tool(effect="read_only")
    async def read(size: int) -> str:
        """Read so many bytes."""
        return "x" * size

    return ToolRegistry((*built_in_tools(), read))


READER = AgentTemplate(
    name="reader", kind="react", tools=("read",), model_calls_max=20, output_tokens_max=1_000
)


async def run(
    world: MemoryLanes, text: str, policy: Policy, template: AgentTemplate = READER, **fields: Any
) -> AgentResult:
    """Run one request of a template by one worker."""
    templates = (*BUILT_IN_TEMPLATES, template)
    async with (
        lane_services(world, templates=templates, tools=read_tools()) as services,
        upstream(world) as program,
        one_lane(world, services, policy) as owner,
    ):
        before = len(await read_whole(world, RESULTS, AgentResult))
        owner.serve(*await ask(program, text, template=template.name, **fields))
        return (await read_topic(world, RESULTS, AgentResult, count=before + 1))[-1]


async def test_as_many_runs_go_on_side_by_side_as_their_next_calls_fit(world: MemoryLanes) -> None:
    async with (
        lane_services(world, templates=(*BUILT_IN_TEMPLATES, TWENTY)) as services,
        upstream(world) as program,
        one_lane(world, services, capped(1)) as owner,
    ):
        for number in range(9):
            named = {"request_id": f"r{number}", "session_id": f"s{number}"}
            owner.serve(*await ask(program, "hang", template="twenty", **named))
        rejected = await read_topic(world, RESULTS, AgentResult, count=1)
        decisions = await read_topic(world, DECISIONS, Decision, count=9)
    admitted = [one for one in decisions if one.admitted]
    first_micros = admitted[0].reserved_micros
    # 8,192 tokens at 15 micros, and what is read.
    assert 122_880 < first_micros < 140_000
    assert len(admitted) == 1_000_000 // first_micros == 7
    (reason, *_) = [one.reason for one in rejected]
    assert reason is not None
    assert reason.code == "budget_exceeded"
    assert "the first model call of this run may cost up to $0.1" in reason.message


async def test_each_further_call_is_reserved_before_it_is_made(world: MemoryLanes) -> None:
    seen: list[int] = []

    async def look(event: CallbackEvent) -> None:
        if event.kind == "model_start":
            seen.append(len(await read_whole(world, RESERVATIONS, CallReserved)))

    async with (
        lane_services(world, look, (*BUILT_IN_TEMPLATES, TWENTY)) as services,
        upstream(world) as program,
        one_lane(world, services, capped(1)) as owner,
    ):
        owner.serve(*await ask(program, f"{ADD}; {ADD}; say: two", template="twenty"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.status == "completed"
    assert seen == [0, 1, 2]
    reserved = await read_whole(world, RESERVATIONS, CallReserved)
    (started,) = await read_whole(world, ATTEMPTS, AttemptStarted)
    costs = await read_whole(world, COSTS, CostRecorded)
    assert [one.call for one in reserved] == [1, 2]
    assert {one.attempt for one in reserved} == {started.attempt}
    for number, one in enumerate(reserved, 1):
        made_micros = sum(cost.cost_micros for cost in costs[:number])
        assert one.used.output_tokens == sum(cost.usage.output_tokens for cost in costs[:number])
        assert one.usage_max.output_tokens == 8_192
        # What it used so far, and the most that the next call may.
        assert one.reserved_micros - made_micros == pytest.approx(
            3 * one.usage_max.input_tokens + 15 * 8_192, abs=1
        )
        assert one.usage_max.input_tokens >= costs[number].usage.input_tokens


async def test_the_journal_has_what_each_call_took_used_and_cost(world: MemoryLanes) -> None:
    result = await run(world, 'slow: 0.02; call: read {"size": 10}; say: two', capped(1))
    assert result.status == "completed"
    answered, done = await read_whole(world, JOURNAL, JournalStep)
    (first, _) = await read_whole(world, COSTS, CostRecorded)
    assert (answered.kind, done.kind) == ("answered", "done")
    assert answered.duration_ms is not None
    assert answered.duration_ms >= 20
    assert [one.usage for one in answered.used] == [first.usage]
    assert answered.cost_micros == first.cost_micros > 0
    assert (done.used, done.cost_micros) == ((), None)


async def test_a_single_call_is_reserved_by_its_attempt_and_by_nothing_else(
    world: MemoryLanes,
) -> None:
    result = await run(world, "say: hi", capped(1))
    assert result.status == "completed"
    assert await read_whole(world, RESERVATIONS, CallReserved) == []


async def test_what_a_first_call_turns_out_not_to_need_is_let_go_of(world: MemoryLanes) -> None:
    forgetful = AgentTemplate(name="forgetful", memory=TokenBudget(tokens_max=100_000))
    async with (
        lane_services(world, templates=(*BUILT_IN_TEMPLATES, forgetful)) as services,
        upstream(world) as program,
        one_lane(world, services, capped(2)) as owner,
    ):
        owner.serve(*await ask(program, "hang", template="forgetful", session_id="s"))
        (reserved,) = await read_topic(world, RESERVATIONS, CallReserved, count=1)
        (decision,) = await read_whole(world, DECISIONS, Decision)
    assert decision.reserved_micros > 900_000
    assert reserved.reserved_micros < 10_000
    assert reserved.used.is_none


async def test_a_run_whose_next_call_does_not_fit_ends_with_what_it_has(world: MemoryLanes) -> None:
    text = 'call: read {"size": 10}; call: read {"size": 30000}; say: never'
    result = await run(world, text, capped(0.05))
    assert result.status == "failed"
    assert result.reason is not None
    assert result.reason.code == "budget_exceeded"
    assert "its next model call may cost up to $0.1" in result.reason.message
    assert result.reason.message.endswith("or lower the template's limits")
    costs = await read_whole(world, COSTS, CostRecorded)
    assert len(costs) == 2
    assert result.cost_micros == sum(one.cost_micros for one in costs) > 0
    assert not any(one.estimated for one in costs)
    # Nothing of it is held any more: what is left is another run's.
    after = await run(world, "say: x", capped(0.05), request_id="r2", session_id="s2")
    assert after.status == "completed"


async def test_a_call_that_others_keep_from_being_made_says_so(world: MemoryLanes) -> None:
    async with (
        lane_services(
            world, templates=(*BUILT_IN_TEMPLATES, READER), tools=read_tools()
        ) as services,
        upstream(world) as program,
        one_lane(world, services, capped(0.06)) as owner,
    ):
        owner.serve(*await ask(program, "hang", template="reader"))
        named = {"request_id": "r2", "session_id": "s2"}
        text = 'call: read {"size": 12000}; say: read'
        owner.serve(*await ask(program, text, template="reader", **named))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.status == "failed"
    assert result.reason is not None
    assert result.reason.code == "budget_exceeded"
    assert "have spent $0.000000 and reserved $0.0" in result.reason.message
    assert result.reason.message.endswith("what these do not use is free again as they end")
    assert result.reason.retry_after_s is None


async def test_a_lost_workers_call_counts_at_the_most_that_was_reserved_for_it(
    world: MemoryLanes,
) -> None:
    outside = Outside()
    text = 'call: look {"n": 1}; call: look {"n": 2}; say: seen'
    its = clerk(output_tokens_max=1_000)
    holds = [Hold("asked", 2), None]
    result = await run_through(world, outside, text, holds, (its,), policy=capped(1))
    assert result.status == "completed"
    reserved = await read_whole(world, RESERVATIONS, CallReserved)
    lost = [one for one in reserved if one.attempt == 1000]
    costs = [one for one in await read_whole(world, COSTS, CostRecorded) if one.attempt == 1000]
    assert len(lost) == 2
    assert sum(one.cost_micros for one in costs) == lost[-1].reserved_micros
    assert [one.estimated for one in costs] == [False, False, True]
    assert costs[-1].usage == lost[-1].usage_max
    # What a crash has left is held by nobody once the run is over.
    async with lane_services(world) as services, one_lane(world, services, capped(1)) as owner:
        (cost,) = [
            one
            for one in owner.lane._state.pipeline.layers
            if isinstance(one, CostTrackingMiddleware)
        ]
        spend = cost.spend("default", "ada", result.accepted_at_ms)
    assert (spend.reserved_micros, spend.runs_open) == (0, 0)
    assert spend.spent_micros == result.cost_micros


async def test_a_run_that_another_worker_goes_on_with_reserves_where_it_stands(
    world: MemoryLanes,
) -> None:
    result = await run_through(
        world,
        Outside(),
        'call: read {"size": 30000}; say: read',
        [Hold("asked", 1), None],
        [READER],
        template="reader",
        policy=capped(1),
        tools=read_tools(),
    )
    assert result.status == "completed"
    reserved = await read_whole(world, RESERVATIONS, CallReserved)
    (again,) = [one for one in reserved if one.attempt == 2000]
    assert again.used.is_none
    assert again.usage_max.input_tokens > 30_000
    # Of the call that was journalled what it cost, of the one that was lost the most.
    lost = [one for one in await read_whole(world, COSTS, CostRecorded) if one.attempt == 1000]
    spent_micros = sum(one.cost_micros for one in lost)
    assert spent_micros > 3 * 30_000
    assert again.reserved_micros > spent_micros + 3 * 30_000


async def test_calls_of_one_answer_are_followed_by_one_reservation(world: MemoryLanes) -> None:
    sizes = " + ".join(f'read {{"size": {size}}}' for size in (10, 2_000, 300))
    result = await run(world, f"call: {sizes}; say: read", capped(1))
    assert result.status == "completed"
    (reserved,) = await read_whole(world, RESERVATIONS, CallReserved)
    assert reserved.usage_max.input_tokens > 2_310
    # With the newest of the answers: the call waited for no commit of its own.
    done = [one for one in await read_whole(world, JOURNAL, JournalStep) if one.kind == "done"]
    assert len(done) == 3


async def test_the_models_of_middlewares_are_reserved_at_their_own_prices(
    world: MemoryLanes,
) -> None:
    policy = Policy.from_yaml(
        f"prices: {{main: {PRICE}, chooser: {{input_usd_per_mtok: 30, output_usd_per_mtok: 150}}}}"
        "\ndefaults: {spend: {usd_per_day: 5}}",
        "test",
    )
    main = OddModel(
        says=[calling(("put", {"n": 1}, "c1")), calling(("put", {"n": 2}, "c2")), AIMessage("done")]
    )
    chooser = Chooser(says=[AIMessage('{"tools": ["put"]}') for _ in range(3)])
    models = {"main": main, "chooser": chooser}
    params = {"model": "chooser", "max_tools": 1}
    template = clerk(
        models=("main",), middlewares=[{"name": "tool_selector", "params": params}], steps="none"
    )
    result = await run_through(
        world,
        Outside(),
        "x",
        templates=[template],
        policy=policy,
        resolve=lambda name, **_: models[name],
    )
    assert result.status == "completed"
    reserved = await read_whole(world, RESERVATIONS, CallReserved)
    assert {one.model for one in reserved} == {"main", "chooser"}
    costs = await read_whole(world, COSTS, CostRecorded)
    assert len(costs) == 4
    made_micros = 0
    for number, cost in enumerate(costs):
        made_micros += cost.cost_micros
        held = [one for one in reserved if one.used.output_tokens <= number]
        assert not held or held[-1].reserved_micros >= made_micros


async def test_a_chain_that_is_cut_reserves_all_calls_at_once_and_says_so(
    world: MemoryLanes,
) -> None:
    world = world.changed(chain_cuts=("executor",))
    async with (
        upstream(world) as program,
        running_lanes(world, capped(10), (*BUILT_IN_TEMPLATES, TWENTY)),
    ):
        await ask(program, f"{ADD}; say: two", template="twenty")
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.status == "completed"
    assert await read_whole(world, RESERVATIONS, CallReserved) == []
    (decision, *_) = await read_whole(world, DECISIONS, Decision)
    assert decision.reserved_micros > 20 * 15 * 8_192


async def test_the_first_call_of_an_agent_with_large_tools_is_reserved_by_its_attempt(
    world: MemoryLanes,
) -> None:
    long = "Look at one of very many things, and say what there is to say. " * 40

    def made(name: str) -> StructuredTool:
        async def look(size: int) -> str:
            return "x" * size

        return StructuredTool.from_function(coroutine=look, name=name, description=long)

    names = tuple(f"look_{number}" for number in range(5))
    seer = AgentTemplate(name="seer", kind="react", tools=names, output_tokens_max=1_000)
    async with (
        lane_services(
            world,
            templates=(*BUILT_IN_TEMPLATES, seer),
            tools=ToolRegistry((*built_in_tools(), *map(made, names))),
        ) as services,
        upstream(world) as program,
        one_lane(world, services, capped(1)) as owner,
    ):
        owner.serve(*await ask(program, "say: seen", template="seer"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.status == "completed"
    assert await read_whole(world, RESERVATIONS, CallReserved) == []
