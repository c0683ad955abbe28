"""Attempts that may cost are committed before their first call, whoever crashes."""

from __future__ import annotations

import pytest

from millstream.agents.factory import AgentFactory
from millstream.middleware.policy import Policy
from millstream.schemas.base import Address
from millstream.schemas.events import (
    AgentResult,
    AttemptStarted,
    CostRecorded,
)
from millstream.schemas.topics import ATTEMPTS, COSTS, RESULTS
from millstream.streams.settings import Settings
from tests import making
from tests.harness.lanes import (
    ask,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    upstream,
)
from tests.support import eventually

pytestmark = [pytest.mark.rule(7), pytest.mark.promise("P5")]

PRICED = "prices: {scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}\n"


HANG = making.request(input="hang").resolved(Address(topic="t", partition=0, offset=0), 0)
PLAN = AgentFactory(default_model="scripted").plan(HANG)
HANG_MICROS = PLAN.input_tokens_max + PLAN.output_tokens_max
"""The worst case of `hang` at a micro per token."""


async def costs_of(settings: Settings) -> list[tuple[int, int, bool]]:
    costs = await read_whole(settings, COSTS, CostRecorded)
    return [(cost.attempt, cost.cost_micros, cost.estimated) for cost in costs]


async def test_lost_attempts_count_at_their_worst_case_until_the_cap_lets_none_begin(
    settings: Settings,
) -> None:
    cap = f"defaults: {{spend: {{micros_per_day: {3 * HANG_MICROS - 1}}}}}"
    rules = Policy.from_yaml(PRICED + cap, "test")
    async with lane_services(settings) as services, upstream(settings) as program:
        served = await ask(program, "hang")
        for number in (1, 2):
            async with one_lane(settings, services, rules) as owner:
                owner.serve(*served)
                await read_topic(settings, ATTEMPTS, AttemptStarted, count=number)
        async with one_lane(settings, services, rules) as owner:
            owner.serve(*served)
            (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
            await eventually(lambda: owner.acked)
    assert (result.status, result.attempt, result.cost_micros) == ("failed", 3000, 2 * HANG_MICROS)
    assert result.reason is not None
    assert result.reason.code == "budget_exceeded"
    assert "at its worst case" in result.reason.message
    assert await costs_of(settings) == [(1000, HANG_MICROS, True), (2000, HANG_MICROS, True)]
    started = await read_whole(settings, ATTEMPTS, AttemptStarted)
    assert [(one.attempt, one.spent_micros) for one in started] == [(1000, 0), (2000, HANG_MICROS)]
