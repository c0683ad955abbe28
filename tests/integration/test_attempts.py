"""Attempts that may cost are committed before their first call, whoever crashes."""

from __future__ import annotations

import asyncio

import pytest

from agents.callbacks import CallbackEvent
from middleware.policy import Policy
from schemas.events import AgentResult, AttemptStarted, CostRecorded, Decision
from schemas.topics import ATTEMPTS, COSTS, DECISIONS, RESULTS
from streams.settings import Settings
from tests.lane_harness import (
    ask,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    upstream,
)
from tests.support import eventually

PRICED = "prices: {scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}\n"


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
        ("", "scripted:say: x"),  # no table knows its price
        (PRICED + "defaults: {spend: {usd_per_day: 1}}", "scripted"),
    ],
    ids=["priced", "unpriced", "capped"],
)
async def test_a_lane_that_was_fenced_makes_no_call_that_costs(
    settings: Settings, policy: str, model: str
) -> None:
    rules = Policy.from_yaml(policy, "test")
    calls = Calls()
    async with lane_services(settings, calls) as services, upstream(settings) as program:
        served = await ask(program, "say: x", model=model)
        async with (
            one_lane(settings, services, rules) as zombie,
            one_lane(settings, services, rules),
        ):
            zombie.serve(*served)
            await asyncio.wait_for(zombie.lane.lost, 30)
    assert calls.made == 0
    assert await read_whole(settings, ATTEMPTS, AttemptStarted) == []


async def test_a_run_of_price_zero_waits_for_no_commit_and_leaves_no_mark(
    settings: Settings,
) -> None:
    calls = Calls()
    async with lane_services(settings, calls) as services, upstream(settings) as program:
        async with one_lane(settings, services, None) as zombie, one_lane(settings, services, None):
            zombie.serve(*await ask(program, "hang"))
            await eventually(lambda: calls.made)
        async with one_lane(settings, services, None) as owner:
            owner.serve(*await ask(program, "say: x", request_id="r2"))
            await read_topic(settings, RESULTS, AgentResult, count=1)
    assert await read_whole(settings, ATTEMPTS, AttemptStarted) == []


async def test_a_call_that_costs_is_made_once_its_attempt_is_committed(settings: Settings) -> None:
    rules = Policy.from_yaml(PRICED, "test")
    seen: list[AttemptStarted] = []

    async def look(event: CallbackEvent) -> None:
        if event.kind == "model_start":
            seen.extend(await read_whole(settings, ATTEMPTS, AttemptStarted))

    async with (
        lane_services(settings, look) as services,
        upstream(settings) as program,
        one_lane(settings, services, rules) as owner,
    ):
        owner.serve(*await ask(program, "say: four words are five"))
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
    (started,) = seen
    (decision,) = await read_whole(settings, DECISIONS, Decision)
    (cost,) = await read_whole(settings, COSTS, CostRecorded)
    assert started.attempt == cost.attempt == result.attempt == 1000
    assert started.reserved_micros == decision.reserved_micros >= cost.cost_micros > 0
