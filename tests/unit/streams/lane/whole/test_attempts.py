"""Attempts that may cost are committed before their first call, whoever crashes."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.models.resolve import resolve_model
from millstream.agents.models.scripted.model import ScriptedChatModel
from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.middleware.policy import Policy
from millstream.schemas.events import (
    AgentResult,
    AgentToken,
    AttemptStarted,
    CostRecorded,
    Decision,
)
from millstream.schemas.topics import ATTEMPTS, COSTS, DECISIONS, RESULTS, TOKENS
from tests.contracts.waiting_lane_contract import HANG_MICROS, PLAN, PRICED
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
from tests.support import eventually

pytestmark = [pytest.mark.rule(3), pytest.mark.rule(7), pytest.mark.promise("P5")]

ANY_MODEL = "{roles: {any: {templates: ['*'], models: ['*']}}, defaults: {roles: [any]}}"


class Calls:
    """Counts the calls of the model, each before it is made."""

    def __init__(self) -> None:
        self.made = 0

    async def __call__(self, event: CallbackEvent) -> None:
        """Hear of a step of a run."""
        self.made += event.kind == "model_start"


@pytest.mark.parametrize(
    ("policy", "model"),
    [
        (PRICED, "scripted"),
        (ANY_MODEL, "scripted:say: x"),  # no table knows its price
        (PRICED + "defaults: {spend: {usd_per_day: 1}}", "scripted"),
    ],
    ids=["priced", "unpriced", "capped"],
)
async def test_a_lane_that_was_fenced_makes_no_call_that_costs(
    world: MemoryLanes, policy: str, model: str
) -> None:
    rules = Policy.from_yaml(policy, "test")
    calls = Calls()
    async with lane_services(world, calls) as services, upstream(world) as program:
        served = await ask(program, "say: x", model=model)
        async with (
            one_lane(world, services, rules) as zombie,
            one_lane(world, services, rules),
        ):
            zombie.serve(*served)
            await asyncio.wait_for(zombie.lane.lost, 30)
    assert calls.made == 0
    assert await read_whole(world, ATTEMPTS, AttemptStarted) == []


async def test_a_run_of_price_zero_waits_for_no_commit_and_leaves_no_mark(
    world: MemoryLanes,
) -> None:
    calls = Calls()
    async with lane_services(world, calls) as services, upstream(world) as program:
        async with one_lane(world, services, None) as zombie, one_lane(world, services, None):
            zombie.serve(*await ask(program, "hang"))
            await eventually(lambda: calls.made)
        async with one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, "say: x", request_id="r2"))
            await read_topic(world, RESULTS, AgentResult, count=1)
    assert await read_whole(world, ATTEMPTS, AttemptStarted) == []


async def test_a_call_that_costs_is_made_once_its_attempt_is_committed(world: MemoryLanes) -> None:
    rules = Policy.from_yaml(PRICED, "test")
    seen: list[AttemptStarted] = []

    async def look(event: CallbackEvent) -> None:
        if event.kind == "model_start":
            seen.extend(await read_whole(world, ATTEMPTS, AttemptStarted))

    async with (
        lane_services(world, look) as services,
        upstream(world) as program,
        one_lane(world, services, rules) as owner,
    ):
        owner.serve(*await ask(program, "say: four words are five"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    (started,) = seen
    (decision,) = await read_whole(world, DECISIONS, Decision)
    (cost,) = await read_whole(world, COSTS, CostRecorded)
    assert started.attempt == cost.attempt == result.attempt == 1000
    assert started.reserved_micros == decision.reserved_micros >= cost.cost_micros > 0


async def costs_of(world: MemoryLanes) -> list[tuple[int, int, bool]]:
    costs = await read_whole(world, COSTS, CostRecorded)
    return [(cost.attempt, cost.cost_micros, cost.estimated) for cost in costs]


def thinks(**_params: Any) -> ScriptedChatModel:
    return ScriptedChatModel(profile={"reasoning_output": True})


def comes_whole(**_params: Any) -> ScriptedChatModel:
    return ScriptedChatModel(disable_streaming=True)


MODELS = partial(resolve_model, own={"thinks": thinks, "whole": comes_whole})
ONE_ATTEMPT = RetryPolicy(attempts_max=1)
TOLD = {"cancel": "a model call was cut off", "time_out": "a model call was cut off"}
CUT_OFF = (
    AgentTemplate(name="cancel", retry=ONE_ATTEMPT),
    AgentTemplate(name="time_out", retry=ONE_ATTEMPT, attempt_timeout_s=0.5),
)
ONE = "{input_usd_per_mtok: 1, output_usd_per_mtok: 1}"
PRICED_ALL = (
    f"prices: {{scripted: {ONE}, thinks: {ONE}, whole: {ONE}}}\n"
    "roles: {any: {templates: ['*'], models: ['*']}}\ndefaults: {roles: [any]}"
)


@pytest.mark.parametrize(
    ("model", "script", "output_tokens"),
    [
        ("scripted", "pace: 60; tokens: 2", len("t0") + 64),
        ("scripted", "hang", 64),
        ("thinks", "pace: 60; tokens: 2", PLAN.output_tokens_max),
        ("whole", "hang", PLAN.output_tokens_max),
    ],
)
@pytest.mark.parametrize("how", ["cancel", "time_out"])
async def test_a_call_that_is_cut_off_counts_what_came_and_up_to_its_limit_what_nobody_saw(
    world: MemoryLanes, how: str, model: str, script: str, output_tokens: int
) -> None:
    rules = Policy.from_yaml(PRICED_ALL, "test")
    calls = Calls()
    async with (
        lane_services(world, calls, templates=CUT_OFF, resolve=MODELS) as services,
        upstream(world) as program,
        one_lane(world, services, rules) as owner,
    ):
        owner.serve(*await ask(program, script, request_id="cut", template=how, model=model))
        await eventually(lambda: calls.made)
        if script != "hang":
            await read_topic(world, TOKENS, AgentToken, count=1)
        if how == "cancel":
            owner.serve(*await give(world, program, "cancel", request_id="cut"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    (cut,) = await read_whole(world, COSTS, CostRecorded)
    assert (cut.estimated, cut.estimate_reason) == (True, TOLD[how])
    assert cut.usage.output_tokens == output_tokens
    assert cut.cost_micros == cut.usage.input_tokens + output_tokens == result.cost_micros
    assert result.status == {"cancel": "cancelled", "time_out": "failed"}[how]


async def test_a_call_that_reports_what_it_used_is_no_estimate(world: MemoryLanes) -> None:
    rules = Policy.from_yaml(PRICED, "test")
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, rules) as owner,
    ):
        owner.serve(*await ask(program, "say: two words"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    (whole,) = await read_whole(world, COSTS, CostRecorded)
    assert not whole.estimated
    assert whole.usage.output_tokens == len(["two", "words"])
    assert whole.cost_micros == whole.usage.input_tokens + 2 == result.cost_micros


async def test_each_attempt_is_on_the_bill_and_the_result_is_their_sum(world: MemoryLanes) -> None:
    rules = Policy.from_yaml(PRICED, "test")
    quick = AgentTemplate(name="quick", retry=RetryPolicy(backoff_first_s=0.01, jitter=0))
    async with (
        lane_services(world, templates=(*BUILT_IN_TEMPLATES, quick)) as services,
        upstream(world) as program,
        one_lane(world, services, rules) as owner,
    ):
        owner.serve(*await ask(program, "retry: no", template="quick"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    # It was refused before a word: nothing was used, and so it is said.
    attempts = [1000, 1001, 1002]
    assert await costs_of(world) == [(attempt, 0, False) for attempt in attempts]
    started = await read_whole(world, ATTEMPTS, AttemptStarted)
    assert [one.attempt for one in started] == attempts
    assert (result.attempt, result.cost_micros) == (1002, 0)


async def test_a_request_that_is_cancelled_before_it_comes_again_is_charged_for_what_was_lost(
    world: MemoryLanes,
) -> None:
    rules = Policy.from_yaml(PRICED, "test")
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, rules) as owner:
            owner.serve(*await ask(program, "hang"))
            await read_topic(world, ATTEMPTS, AttemptStarted, count=1)
        async with one_lane(world, services, rules) as owner:
            owner.serve(*await give(world, program, "cancel", request_id="r1"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.cost_micros) == ("cancelled", HANG_MICROS)
    assert await costs_of(world) == [(1000, HANG_MICROS, True)]


@pytest.mark.rule(6)
@pytest.mark.parametrize(
    ("policy", "marked_from"), [(PRICED, 1), (ANY_MODEL, 2)], ids=["priced", "free"]
)
async def test_a_request_that_takes_its_owners_down_is_given_up(
    world: MemoryLanes, policy: str, marked_from: int
) -> None:
    lost_max = 3
    world = world.limited(attempts_lost_max=lost_max)
    rules = Policy.from_yaml(policy, "test")
    calls = Calls()
    owners = marked_from - 1 + lost_max
    async with lane_services(world, calls) as services, upstream(world) as program:
        served = await ask(program, "hang")
        for number in range(1, owners + 1):
            async with one_lane(world, services, rules) as owner:
                owner.serve(*served)
                await eventually(lambda number=number: calls.made == number)
        async with one_lane(world, services, rules) as owner:
            owner.serve(*served)
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.status == "failed"
    assert result.reason is not None
    assert result.reason.code == "attempts_exhausted"
    assert calls.made == owners
    started = await read_whole(world, ATTEMPTS, AttemptStarted)
    assert [one.lost for one in started] == list(range(lost_max))
    assert len(await costs_of(world)) == lost_max


class Bystanders(Calls):
    """Counts the calls by request; those of `near` are held up until `calm`."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = {"culprit": 0, "near": 0}
        self.calm = asyncio.Event()

    async def __call__(self, event: CallbackEvent) -> None:
        """Hear of a step of a run."""
        if event.kind == "model_start":
            self.begun[str(event.request_id)] += 1
            if event.request_id == "near":
                await self.calm.wait()


async def ask_both(program: Any) -> list[Any]:
    return [
        await ask(program, "hang", request_id="culprit", session_id="a"),
        await ask(program, "say: fine", request_id="near", session_id="b"),
    ]


def serve_both(owner: Any, asked: list[Any]) -> None:
    for one in asked:
        owner.serve(*one)


@pytest.mark.promise("P1")
async def test_a_request_that_takes_its_owners_down_takes_no_other_along_for_good(
    world: MemoryLanes,
) -> None:
    together, lost_max = 2, 4
    world = world.limited(attempts_lost_max=lost_max, attempts_lost_together_max=together)
    rules = Policy.from_yaml(PRICED, "test")
    calls = Bystanders()
    async with lane_services(world, calls) as services, upstream(world) as program:
        served = await ask_both(program)
        for number in range(1, lost_max + 1):
            expected = {"culprit": number, "near": min(number, together)}
            async with one_lane(world, services, rules) as owner:
                serve_both(owner, served)
                await eventually(lambda expected=expected: calls.begun == expected)
        calls.calm.set()
        async with one_lane(world, services, rules) as owner:
            serve_both(owner, served)
            results = await read_topic(world, RESULTS, AgentResult, count=2)
    told = {one.request_id: (one.status, one.reason and one.reason.code) for one in results}
    assert told == {"culprit": ("failed", "attempts_exhausted"), "near": ("completed", None)}


async def test_a_request_that_waits_to_go_on_alone_can_be_cancelled(world: MemoryLanes) -> None:
    world = world.limited(attempts_lost_together_max=1)
    rules = Policy.from_yaml(PRICED, "test")
    calls = Bystanders()
    async with lane_services(world, calls) as services, upstream(world) as program:
        served = await ask_both(program)
        async with one_lane(world, services, rules) as owner:
            serve_both(owner, served)
            await eventually(lambda: calls.begun == {"culprit": 1, "near": 1})
        async with one_lane(world, services, rules) as owner:
            serve_both(owner, served)
            await eventually(lambda: calls.begun["culprit"] == len(served))
            owner.serve(*await give(world, program, "cancel", request_id="near"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.request_id, result.status) == ("near", "cancelled")
    assert calls.begun["near"] == 1
