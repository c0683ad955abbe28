"""What went wrong elsewhere with the bills of runs that are lost or wait, tried on ours.

Public reports: each test names those that it follows.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.internal_call_transformer import internal_call_metadata
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langgraph.prebuilt import ToolRuntime
from langgraph.types import Command
from typing_extensions import override

from millstream.agents.executor import wall_clock_ms
from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from millstream.agents.tools import Caller, tool
from millstream.middleware.cost import CostTrackingMiddleware, DaySpend
from millstream.middleware.policy import Policy
from millstream.schemas.errors import ModelFailed
from millstream.schemas.events import AgentResult, CostRecorded
from millstream.schemas.lane_events import HoldPlaced
from millstream.schemas.runs.reservations import CallReserved
from millstream.schemas.topics import (
    COSTS,
    DAY_MS,
    HOLDS,
    RESERVATIONS,
    RESULTS,
)
from tests.fakes.odd_models import OddModel, StreamingOddModel, calling
from tests.harness.journalled import CLERK, Hold, Outside, clerk, run_through
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    ask,
    give,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    upstream,
)
from tests.support import eventually

pytestmark = pytest.mark.promise("P5")

AT_ONCE = RetryPolicy(backoff_first_s=0, jitter=0)
PRICE = "{input_usd_per_mtok: 3, output_usd_per_mtok: 15, cache_read_usd_per_mtok: 0.3}"


def capped(usd: float, *models: str) -> Policy:
    """Give a policy under which everybody may spend so much a day, with one price for all."""
    prices = ", ".join(f"{one}: {PRICE}" for one in models or ("scripted",))
    return Policy.from_yaml(
        f"prices: {{{prices}}}\ndefaults: {{spend: {{usd_per_day: {usd}}}}}", "test"
    )


def spend_of(owner: OneLane, at_ms: int) -> DaySpend:
    """Give what a lane knows of ada's money."""
    layers = owner.lane._state.pipeline.layers
    (cost,) = [one for one in layers if isinstance(one, CostTrackingMiddleware)]
    return cost.spend("default", "ada", at_ms)


def used(message: AIMessage, read: int, wrote: int, cached: int = 0) -> AIMessage:
    """Give an answer whose provider reports so many tokens."""
    told = {"input_tokens": read, "output_tokens": wrote, "total_tokens": read + wrote}
    details = {"input_token_details": {"cache_read": cached}}
    return message.model_copy(update={"usage_metadata": {**told, **details}})


async def test_a_tool_that_answers_with_a_list_of_commands_is_paid_for_and_made_once(
    world: MemoryLanes,
) -> None:
    """langchain-ai/langgraph#7596, #8924: what one call gives may be several answers."""
    outside, made = Outside(), list[str]()
    registry = outside.tools()

    @tool(effect="idempotent")
    async def hand(runtime: ToolRuntime[Caller]) -> Any:
        """Hand on."""
        made.append(runtime.tool_call_id or "")
        answer = ToolMessage("x" * 3_000, tool_call_id=runtime.tool_call_id)
        return [Command(update={"messages": [answer]}), Command(update={})]

    registry.register(hand)
    result = await run_through(
        world,
        outside,
        'call: hand {}; call: look {"n": 1}; say: done',
        [Hold("begun"), None],
        [clerk(tools=("hand", "look"))],
        tools=registry,
        policy=capped(1),
    )
    assert (result.status, result.output) == ("completed", "done")
    assert len(made) == 1
    reserved = await read_whole(world, RESERVATIONS, CallReserved)
    # Committed with its answer: what the call behind it is to read.
    ahead = max(reserved, key=lambda one: (one.attempt, one.call))
    assert ahead.usage_max.input_tokens > 3_000


@pytest.mark.parametrize("lost", [Hold("asked"), Hold("asked", 1)], ids=str)
async def test_a_run_that_was_free_as_it_began_is_paid_for_under_the_cap_once_it_has_a_price(
    world: MemoryLanes, lost: Hold
) -> None:
    """sielay/eidan#203, preloop/preloop#387: a price comes once its model is in use."""
    outside = Outside()
    text = 'call: put {"n": 1}; call: put {"n": 2}; say: done'
    template, policy = clerk(output_tokens_max=1_000), capped(0.05)
    async with upstream(world) as program:
        asked = [await ask(program, text, template="clerk", request_id=f"r{n}") for n in (1, 2)]
        outside.begin_worker(lost)
        more: dict[str, Any] = {"tools": outside.tools()}
        async with (
            lane_services(world, outside, [template], **more) as services,
            one_lane(world, services, None) as owner,
        ):
            owner.serve(*asked[0])
            await asyncio.wait_for(outside.is_held.wait(), 10)
        outside.begin_worker(Hold("asked"))
        async with (
            lane_services(world, outside, [template], **more) as services,
            one_lane(world, services, policy) as owner,
        ):
            owner.serve(*asked[0])
            await asyncio.wait_for(outside.is_held.wait(), 10)
            accepted_ms = wall_clock_ms()
            held = spend_of(owner, accepted_ms)
            assert held.runs_open == 1
            # Its next call, beside which another run finds what is left.
            assert held.reserved_micros > 15_000
            outside.goes_on.set()
            owner.serve(*asked[1])
            results = await read_topic(world, RESULTS, AgentResult, count=2)
            after = spend_of(owner, accepted_ms)
    assert [one.status for one in results] == ["completed", "completed"]
    costs = await read_whole(world, COSTS, CostRecorded)
    assert after == DaySpend(sum(one.cost_micros for one in costs), 0, 0)
    assert {one.attempt for one in costs if one.request_id == "r1"} >= {2000}


@pytest.mark.parametrize(("usd", "code"), [(1, None), (0.03, "budget_exceeded")], ids=str)
async def test_a_run_that_was_paused_until_its_day_was_forgotten_is_held_to_the_cap_by_itself(
    world: MemoryLanes, usd: float, code: str | None
) -> None:
    """lanl/BEE#833, SocialGouv/iterion#554: what was paused for days is resumed."""
    outside = Outside(timeout_s=5)
    outside.begin_worker(Hold("asked", 1))
    registry = outside.tools()

    @tool(effect="read_only")
    async def read(size: int) -> str:
        """Read so many bytes."""
        return "x" * size

    registry.register(read)
    text = 'call: look {"n": 1}; call: look {"n": 2}; call: read {"size": 6000}; say: done'
    template = clerk(tools=("look", "read"), output_tokens_max=1_000)
    more: dict[str, Any] = {"tools": registry}
    async with (
        upstream(world) as program,
        lane_services(world, outside, [template, *BUILT_IN_TEMPLATES], **more) as services,
    ):
        async with one_lane(world, services, capped(usd)) as owner:
            owner.serve(*await ask(program, text, template="clerk"))
            await asyncio.wait_for(outside.is_held.wait(), 10)
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            await read_topic(world, HOLDS, HoldPlaced, count=1)
            outside.goes_on.set()
            await eventually(lambda: owner.lane.waiting == 1)
        outside.begin_worker(None)
        later = replace(services, clock_ms=lambda: wall_clock_ms() + 4 * DAY_MS)
        world.broker._clock = later.clock_ms
        async with one_lane(world, later, capped(usd)) as owner:
            # The day of this one is the newest: that of the run is kept no more.
            owner.serve(*await ask(program, "say: hi", request_id="r2", session_id="s2"))
            await read_topic(world, RESULTS, AgentResult, count=1)
            owner.serve(*await give(world, program, "resume", request_id="r1"))
            result = (await read_topic(world, RESULTS, AgentResult, count=2))[-1]
    assert (None if result.reason is None else result.reason.code) == code
    reserved = await read_whole(world, RESERVATIONS, CallReserved)
    assert max(one.reserved_micros for one in reserved) <= usd * 1_000_000
    assert {one.attempt for one in reserved} == {1000, 2000}


GAPS = [Hold("asked"), Hold("said"), Hold("begun"), Hold("happened"), Hold("asked", 1)]


@pytest.mark.parametrize("owners", [1, 2])
@pytest.mark.parametrize("gap", GAPS, ids=str)
async def test_a_run_that_is_cancelled_leaves_nothing_reserved_wherever_it_is(
    world: MemoryLanes, gap: Hold, owners: int
) -> None:
    """BerriAI/litellm#30522, mozilla-ai/otari#128: what is reserved is held for ever."""
    outside, policy = Outside(timeout_s=5), capped(1)
    outside.begin_worker(gap)
    text = 'call: put {"n": 1}; call: look {"n": 2}; say: done'
    async with (
        upstream(world) as program,
        lane_services(world, outside, [CLERK], tools=outside.tools()) as services,
    ):
        asked = await ask(program, text, template="clerk")
        async with one_lane(world, services, policy) as owner:
            owner.serve(*asked)
            await asyncio.wait_for(outside.is_held.wait(), 10)
            if owners == 1:
                owner.serve(*await give(world, program, "cancel", request_id="r1"))
                (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
                live = spend_of(owner, result.accepted_at_ms)
        if owners == 2:
            async with one_lane(world, services, policy) as owner:
                owner.serve(*await give(world, program, "cancel", request_id="r1"))
                owner.serve(*asked)
                (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
                live = spend_of(owner, result.accepted_at_ms)
        async with one_lane(world, services, policy) as owner:
            restored = spend_of(owner, result.accepted_at_ms)
    assert result.status == "cancelled"
    assert live == restored == DaySpend(result.cost_micros, 0, 0)
    assert result.cost_micros > 0
    assert outside.attempts == {1000}


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_what_a_run_used_is_the_sum_of_its_calls_however_often_it_was_lost(
    world: MemoryLanes, workers: int
) -> None:
    """coleam00/Archon#2352, #2654, bunnycompany/underclass#17, openclaw/lobster#134.

    What was used before a resume is forgotten, or counts again; cached tokens are lost on the way.
    """
    outside = Outside()
    main = OddModel(
        says=[
            used(calling(("put", {"n": 1}, "c1")), 1_000, 10, 900),
            used(calling(("put", {"n": 2}, "c2")), 2_000, 20, 1_000),
            used(AIMessage("done"), 3_000, 30, 2_000),
        ]
    )
    # Each of them is lost inside of a tool, as no call of a model is under way.
    holds: list[Hold | None] = [Hold("happened"), Hold("begun", 1), None][3 - workers :]
    result = await run_through(
        world,
        outside,
        "x",
        holds,
        [clerk(models=("main",))],
        resolve=lambda *_, **__: main,
        policy=capped(1, "main"),
    )
    assert (result.status, len(main.seen)) == ("completed", 3)
    costs = await read_whole(world, COSTS, CostRecorded)
    assert not any(one.estimated for one in costs)
    for usage in (result.usage, sum((one.usage for one in costs[1:]), costs[0].usage)):
        assert (usage.input_tokens, usage.output_tokens) == (6_000, 60)
        assert usage.cache_read_tokens == 3_900
    # 2,100 at 3 micros, 3,900 at 0.3 and 60 at 15; rounded up once for each attempt.
    exact_micros = 2_100 * 3 + 1_170 + 900
    assert exact_micros <= result.cost_micros <= exact_micros + workers
    assert result.cost_micros == sum(one.cost_micros for one in costs)


async def test_a_call_that_broke_off_stays_on_the_bill_though_its_worker_is_lost_later(
    world: MemoryLanes,
) -> None:
    """coleam00/Archon#2609: what fails in the middle of a stream is not on the log."""
    outside = Outside()
    broken = [AIMessageChunk("some words"), ModelFailed("the connection was closed")]
    main = StreamingOddModel(says=[calling(("put", {"n": 1}, "c1")), broken, AIMessage("done")])
    result = await run_through(
        world,
        outside,
        "x",
        [Hold("asked", 2), None],
        [clerk(models=("main",), retry=AT_ONCE, output_tokens_max=1_000)],
        resolve=lambda *_, **__: main,
        policy=capped(1, "main"),
    )
    assert (result.status, result.output) == ("completed", "done")
    costs = await read_whole(world, COSTS, CostRecorded)
    by_attempt = {
        one: [cost for cost in costs if cost.attempt == one] for one in (1000, 1001, 2000)
    }
    # Its two calls; the one that was lost, at the most; the last one.
    assert [len(ones) for ones in by_attempt.values()] == [2, 1, 1]
    assert result.cost_micros == sum(one.cost_micros for one in costs)
    assert by_attempt[1000][1].estimate_reason == "a model call broke off: ModelFailed"
    assert by_attempt[1001][0].usage.output_tokens == 1_000


async def test_each_model_of_a_run_is_paid_for_at_its_own_price_though_its_worker_is_lost(
    world: MemoryLanes,
) -> None:
    """kirodotdev/KiroCrew#5431: a fallback stays for ever; here, on whose bill it is."""
    policy = Policy.from_yaml(
        f"prices: {{one: {PRICE}, two: {{input_usd_per_mtok: 30, output_usd_per_mtok: 150}}}}"
        "\ndefaults: {spend: {usd_per_day: 5}}",
        "test",
    )
    one = OddModel(
        says=[used(calling(("put", {"n": 1}, "c1")), 100, 10), ModelFailed("overloaded")]
    )
    two = OddModel(
        says=[used(calling(("put", {"n": 2}, "c2")), 200, 20), used(AIMessage("x"), 300, 30)]
    )
    models, outside = {"one": one, "two": two}, Outside()
    result = await run_through(
        world,
        outside,
        "x",
        [Hold("happened", 1), None],
        [clerk(models=("one", "two"), retry=AT_ONCE, output_tokens_max=1_000)],
        resolve=lambda name, **_: models[name],
        policy=policy,
    )
    assert (result.status, result.model) == ("completed", "two")
    costs = [
        cost for cost in await read_whole(world, COSTS, CostRecorded) if not cost.usage.is_none
    ]
    assert [(cost.model, cost.usage.output_tokens, cost.cost_micros) for cost in costs] == [
        ("one", 10, 450),
        ("two", 20, 9_000),
        ("two", 30, 13_500),
    ]
    assert result.cost_micros == 450 + 9_000 + 13_500


async def test_an_answer_that_was_asked_for_again_at_once_stays_on_the_bill_of_a_lost_worker(
    world: MemoryLanes,
) -> None:
    """coleam00/Archon#2654 (R1): of answers that are asked for again only the last one counts."""
    announces = AIMessage("", response_metadata={"finish_reason": "tool_calls"})
    main = OddModel(
        says=[
            used(calling(("put", {"n": 1}, "c1")), 1_000, 10),
            used(announces, 2_000, 20),
            used(AIMessage("done"), 3_000, 30),
        ]
    )
    result = await run_through(
        world,
        Outside(),
        "x",
        [Hold("asked", 2), None],
        [clerk(models=("main",), output_tokens_max=500)],
        resolve=lambda *_, **__: main,
        policy=capped(1, "main"),
    )
    assert (result.status, result.output) == ("completed", "done")
    costs = [one for one in await read_whole(world, COSTS, CostRecorded) if one.attempt == 1000]
    known = [(one.usage.input_tokens, one.usage.output_tokens) for one in costs]
    assert known[:2] == [(1_000, 10), (2_000, 20)]
    # And the one that was under way, at the most: so all that was reserved.
    assert costs[2].usage.output_tokens == 500
    reserved = [
        one for one in await read_whole(world, RESERVATIONS, CallReserved) if one.attempt == 1000
    ]
    assert sum(one.cost_micros for one in costs) == reserved[-1].reserved_micros


class Judges(AgentMiddleware[Any, Any, Any]):
    """Asks a model of its own of each answer."""

    judge: OddModel

    @override
    async def aafter_model(self, state: Any, runtime: Any) -> None:
        told = HumanMessage(f"Is it right? {state['messages'][-1].text}")
        await self.judge.ainvoke([told], {"metadata": internal_call_metadata()})


@pytest.mark.parametrize("lost", [Hold("asked", 3), Hold("begun")], ids=str)
async def test_an_answer_that_a_middleware_looks_at_with_a_model_stays_on_the_bill(
    world: MemoryLanes, lost: Hold
) -> None:
    """coleam00/Archon#2609, openclaw/lobster#134: what a step used beside its own call is lost."""
    main = OddModel(
        says=[
            used(calling(("put", {"n": 1}, "c1")), 1_000, 10),
            used(AIMessage("done"), 2_000, 20),
        ]
    )
    judges = Judges()
    judges.judge = OddModel(says=[used(AIMessage("yes"), 100, 1)])
    result = await run_through(
        world,
        Outside(),
        "x",
        [lost, None],
        [clerk(models=("main",), middlewares=[{"name": "judges"}], output_tokens_max=500)],
        resolve=lambda *_, **__: main,
        middlewares={"judges": lambda: judges},
        policy=capped(1, "main", "oddmodel"),
    )
    assert (result.status, result.output) == ("completed", "done")
    costs = await read_whole(world, COSTS, CostRecorded)
    known = [(one.attempt, one.usage.input_tokens, one.usage.output_tokens) for one in costs]
    first = [(1000, 1_000, 10), (1000, 100, 1)]
    if lost.at == "asked":
        assert known[:3] == [*first, (1000, 2_000, 20)]
        # The judge's call that was under way, at the most.
        assert (known[3][0], known[3][2]) == (1000, 500)
    else:
        assert [one for one in known if one[0] == 1000] == first
    assert result.cost_micros == sum(one.cost_micros for one in costs)
