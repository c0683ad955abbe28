"""A template's limit on the time of a request holds across attempts and owners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from millstream.agents.executor import AgentExecutor, wall_clock_ms
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.middleware.policy import Policy
from millstream.schemas.events import AgentResult, AttemptStarted
from millstream.schemas.lane_events import RunParked
from millstream.schemas.topics import ATTEMPTS, PARKED, RESULTS
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.settings import Settings
from tests.harness.lanes import ask, lane_services, one_lane, read_topic, read_whole, upstream

pytestmark = pytest.mark.rule(9)

PRICED = Policy.from_yaml(
    "prices: {scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}", "test"
)
LIMIT_S = 3600


@dataclass
class Clock:
    """The wall clock, which a test may put forward."""

    ahead_s: int = 0

    def __call__(self) -> int:
        """Give the time."""
        return wall_clock_ms() + self.ahead_s * 1000


@dataclass
class Bench:
    """The services of a lane whose clock a test sets, and what its model was called for."""

    services: LaneServices
    clock: Clock
    called: asyncio.Event


@asynccontextmanager
async def bench(settings: Settings, **of_template: object) -> AsyncIterator[Bench]:
    fields = {"name": "limited", "kind": "chat", "request_timeout_s": LIMIT_S, **of_template}
    templates = (*BUILT_IN_TEMPLATES, AgentTemplate.model_validate(fields))
    clock, called = Clock(), asyncio.Event()

    async def on_event(event: CallbackEvent) -> None:
        if event.kind == "model_start":
            called.set()

    async with lane_services(settings, templates=templates) as services:
        executor = AgentExecutor(services.factory, clock_ms=clock, on_event=on_event)
        yield Bench(replace(services, clock_ms=clock, run_agent=executor.run), clock, called)


async def test_the_time_of_an_attempt_that_was_lost_counts_for_the_next_owner(
    settings: Settings,
) -> None:
    async with bench(settings) as at, upstream(settings) as program:
        async with one_lane(settings, at.services, PRICED) as first:
            first.serve(*await ask(program, "hang", template="limited"))
            await asyncio.wait_for(at.called.wait(), 30)
        # It was on the log before the call.
        (parked,) = await read_whole(settings, PARKED, RunParked)
        at.clock.ahead_s += LIMIT_S // 2
        at.called.clear()
        async with one_lane(settings, at.services, PRICED):
            await asyncio.wait_for(at.called.wait(), 30)
        _, again = await read_whole(settings, PARKED, RunParked)
        assert 0 <= again.since_ms - parked.since_ms < 60_000
        at.clock.ahead_s += LIMIT_S // 2
        at.called.clear()
        async with one_lane(settings, at.services, PRICED):
            (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
    assert not at.called.is_set()
    attempts = await read_whole(settings, ATTEMPTS, AttemptStarted)
    assert [one.attempt for one in attempts] == [1000, 2000]
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "request_timed_out")
    assert result.attempt == 3000
