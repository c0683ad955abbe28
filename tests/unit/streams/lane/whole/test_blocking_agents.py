"""An agent whose code does not let others run ends as one failed run; its lane and others go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from millstream.middleware.policy import Policy
from millstream.schemas.events import AgentResult, AgentToken, AttemptStarted, CostRecorded
from millstream.schemas.topics import ATTEMPTS, COSTS, RESULTS, TOKENS
from millstream.streams.lane.base.context import LaneServices
from tests.harness.blocking_agents import blocking_factory
from tests.harness.hosting import QUICK, hosted
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    upstream,
)

pytestmark = [pytest.mark.promise("P1"), pytest.mark.usefixtures("spared_collector")]

PRICED = Policy.from_yaml(
    "prices: {scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}", "test"
)


@asynccontextmanager
async def blocking_services(
    world: MemoryLanes, **of_template: object
) -> AsyncIterator[LaneServices]:
    factory = blocking_factory(attempt_timeout_s=2, **of_template)
    async with lane_services(world) as services, hosted(factory, limits=QUICK) as host:
        yield replace(services, factory=factory, run_agent=host.run)


async def ended(world: MemoryLanes, *asked: tuple[str, str]) -> dict[str, AgentResult]:
    """Ask by session and text, side by side; give the results by session."""
    async with (
        blocking_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, PRICED) as owner,
    ):
        for session, text in asked:
            ids = {"request_id": session, "session_id": session, "template": "blocks"}
            owner.serve(*await ask(program, text, **ids))
        results = await read_topic(world, RESULTS, AgentResult, count=len(asked))
    return {each.session_id: each for each in results}


@pytest.mark.parametrize(
    "blocks", ['call: sleep {"seconds": 4}', 'slow: 0.1; call: match {"letters": 22}']
)
async def test_neighbours_complete_and_are_neither_charged_nor_counted_as_lost(
    world: MemoryLanes, blocks: str
) -> None:
    results = await ended(
        world,
        ("blocks", f"{blocks}; say: done"),
        ("one", "slow: 0.2; say: hello"),
        ("two", 'call: waits {"seconds": 0.2}; say: it {tool_result}'),
    )
    assert results["one"].output == "hello"
    assert results["two"].output == "it waited 0.2 s"
    costs = await read_whole(world, COSTS, CostRecorded)
    for name, model_calls in (("one", 1), ("two", 2)):
        charged = [cost for cost in costs if cost.request_id == name]
        assert not any(cost.estimated for cost in charged)
        words = sum(cost.usage.output_tokens for cost in charged)
        assert words > 0
        # What was charged is one answer to each call, whatever was begun anew.
        assert sum(cost.usage.input_tokens > 0 for cost in charged) <= model_calls
    assert "lost" not in str([results[name].reason for name in ("one", "two")])


async def test_the_run_that_blocks_is_begun_once_and_fails_once(world: MemoryLanes) -> None:
    results = await ended(world, ("blocks", 'call: sleep {"seconds": 4}; say: done'))
    reason = results["blocks"].reason
    assert reason is not None
    assert reason.code == "attempt_timed_out"
    assert "the tool 'sleep' of the template 'blocks'" in reason.message
    assert len(await read_whole(world, ATTEMPTS, AttemptStarted)) == 1
    (cost,) = await read_whole(world, COSTS, CostRecorded)
    assert cost.usage.output_tokens > 0


async def test_the_text_that_a_neighbour_had_shown_is_void(world: MemoryLanes) -> None:
    results = await ended(
        world,
        ("blocks", 'slow: 0.1; call: sleep {"seconds": 4}; say: done'),
        ("shows", "pace: 0.05; tokens: 12"),
    )
    shown = results["shows"]
    assert shown.attempt > 1000
    tokens = [
        each for each in await read_whole(world, TOKENS, AgentToken) if each.request_id == "shows"
    ]
    assert "".join(each.text for each in tokens if each.attempt == shown.attempt) == shown.output
    first = min(each.seq for each in tokens if each.attempt == shown.attempt)
    assert first == 0


async def test_a_neighbour_whose_call_has_an_effect_is_not_begun_beside_it(
    world: MemoryLanes,
) -> None:
    results = await ended(
        world,
        ("refunds", 'call: refund {"seconds": 0.2}; say: {tool_result}'),
        ("blocks", 'slow: 0.1; call: sleep {"seconds": 4}; say: done'),
    )
    reason = results["refunds"].reason
    assert reason is not None
    assert reason.code == "in_doubt"
    assert "refund" in reason.message
    assert results["refunds"].attempt == 1000
