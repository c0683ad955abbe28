"""A run whose journal has a call of a tool that its new owner lacks waits for it, as for a version.

What others lost here: a step that needs an MCP tool fails since its server did not list it for a
moment (oracle/wayflow#161); an activity that no worker knows stays started or fails the workflow,
though the next deploy has it (temporalio/sdk-go#465, temporalio/features#221).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal

import pytest
from langchain_core.tools import StructuredTool

from millstream.agents.executor import wall_clock_ms
from millstream.agents.mcp.failures import McpNotMade
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import ToolRules
from millstream.schemas.events import AgentResult
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.lane_events import HoldPlaced, RunParked
from millstream.schemas.topics import HOLDS, JOURNAL, PARKED, RESULTS
from millstream.streams.lane.base.context import LaneServices
from tests.harness.lane_common import records_of
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    ask,
    give,
    lane_services,
    newest_parked,
    one_lane,
    read_topic,
    read_whole,
    reader,
    upstream,
)
from tests.support import eventually

pytestmark = pytest.mark.promise("P2")

ASKED = 'call: calculator {"expression": "1+1"}; call: mail {}; say: said {tool_result}'
OWN = AgentTemplate(name="own", kind="react", tools=("calculator", "mail"))

Way = Literal["answers", "hangs", "absent"]


def put_mail(services: LaneServices, way: Way, effect: Any = "read_only") -> asyncio.Event:
    """Have a worker's registry hold the tool `mail`; gives what is set once it is called."""
    called = asyncio.Event()

    async def mail() -> str:
        called.set()
        if way == "hangs":
            await asyncio.Event().wait()
        if way == "absent":
            message = "the server does not offer it: the call was not made"
            raise McpNotMade(message)
        return "sent"

    tool = StructuredTool.from_function(coroutine=mail, description="Send it.")
    services.factory.tools.replace(tool, ToolRules(effect), is_absent=way == "absent")
    return called


@asynccontextmanager
async def owner_with(
    world: MemoryLanes, way: Way, effect: Any = "read_only"
) -> AsyncIterator[tuple[LaneServices, OneLane, asyncio.Event]]:
    async with lane_services(world) as services:
        called = put_mail(services, way, effect)
        services.factory.register(OWN)
        async with one_lane(world, services, None) as owner:
            yield services, owner, called


async def lost_in_its_call(world: MemoryLanes, program: Any, effect: Any, **more: Any) -> Any:
    """Have a run lost with its worker while it calls `mail`; gives its request."""
    async with owner_with(world, "hangs", effect) as (_, owner, called):
        asked = await ask(program, ASKED, template="own", **more)
        owner.serve(*asked)
        await asyncio.wait_for(called.wait(), 30)
    return asked


@pytest.mark.parametrize("effect", ["read_only", "idempotent"])
async def test_a_run_that_called_a_tool_waits_for_it_and_asks_its_model_nothing_meanwhile(
    world: MemoryLanes, effect: str
) -> None:
    async with upstream(world) as program:
        asked = await lost_in_its_call(world, program, effect)
        before = await read_whole(world, JOURNAL, JournalStep)
        async with owner_with(world, "absent", effect) as (services, owner, called):
            owner.serve(*asked)
            await eventually(lambda: bool(owner.lane.lacking))
            (wanted,) = owner.lane.lacking
            *_, parked = await read_topic(world, PARKED, RunParked, count=1)
            assert await read_whole(world, JOURNAL, JournalStep) == before
            assert not called.is_set()
            put_mail(services, "answers", effect)
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (wanted.name, wanted.version, wanted.tools) == ("own", "1", ("mail",))
    assert parked.waits_for is not None
    assert (parked.waits_for.tools, parked.waits_for.template) == (("mail",), "own")
    assert (result.status, result.output) == ("completed", "said sent")
    steps = await read_whole(world, JOURNAL, JournalStep)
    assert [one.kind for one in steps].count("answered") == 2


async def test_the_wait_for_a_tool_goes_on_under_the_next_owner_from_when_it_began(
    world: MemoryLanes,
) -> None:
    async with upstream(world) as program:
        asked = await lost_in_its_call(world, program, "idempotent")
        async with owner_with(world, "absent", "idempotent") as (_, owner, _):
            owner.serve(*asked)
            await eventually(lambda: bool(owner.lane.lacking))
            *_, first = await read_topic(world, PARKED, RunParked, count=1)
        async with owner_with(world, "absent", "idempotent") as (services, owner, _):
            assert owner.lane.waiting == 1
            assert owner.lane.lacking
            put_mail(services, "answers", "idempotent")
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert first.waits_for is not None
    assert first.waits_for.since_ms > 0
    assert (result.status, result.output) == ("completed", "said sent")


async def test_a_run_that_waits_for_a_tool_can_be_cancelled_and_others_are_served(
    world: MemoryLanes,
) -> None:
    async with upstream(world) as program:
        asked = await lost_in_its_call(world, program, "idempotent")
        async with owner_with(world, "absent", "idempotent") as (_, owner, _):
            owner.serve(*asked)
            await eventually(lambda: bool(owner.lane.lacking))
            owner.serve(*await ask(program, "say: x", request_id="r2", session_id="s2"))
            (other,) = await read_topic(world, RESULTS, AgentResult, count=1)
            owner.serve(*await give(world, program, "cancel", request_id="r1"))
            _, result = await read_topic(world, RESULTS, AgentResult, count=2)
    assert (other.request_id, other.status) == ("r2", "completed")
    assert (result.request_id, result.status) == ("r1", "cancelled")


async def test_a_run_that_waits_for_a_tool_expires_at_its_deadline(world: MemoryLanes) -> None:
    async with upstream(world) as program:
        deadline_ms = wall_clock_ms() + 1500
        asked = await lost_in_its_call(world, program, "read_only", deadline_ms=deadline_ms)
        async with owner_with(world, "absent") as (_, owner, _):
            owner.serve(*asked)
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.status == "expired"


async def test_a_run_whose_unanswered_call_only_a_person_can_judge_does_not_wait(
    world: MemoryLanes,
) -> None:
    async with upstream(world) as program:
        asked = await lost_in_its_call(world, program, "ask_human")
        async with owner_with(world, "absent", "ask_human") as (_, owner, _):
            owner.serve(*asked)
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "in_doubt")


async def test_a_new_run_is_told_that_its_tool_is_not_there(world: MemoryLanes) -> None:
    async with upstream(world) as program, owner_with(world, "absent") as (_, owner, _):
        owner.serve(*await ask(program, ASKED, template="own"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.status == "completed"
    assert "the call was not made" in str(result.output)


async def test_a_worker_offers_no_version_whose_tools_are_not_all_there(
    world: MemoryLanes,
) -> None:
    async with owner_with(world, "absent") as (services, _, _):
        factory = services.factory
        assert ("own", "1") not in factory.offers
        assert ("react_agent", "1") in factory.offers
        assert "own" in factory.names
        put_mail(services, "answers")
        assert ("own", "1") in factory.offers
        assert factory.has("own", "1", ("mail",))
        assert not factory.has("own", "1", ("look_up",))


async def times_parked(world: MemoryLanes, request_id: str) -> int:
    """Count a request's records on `parked`; another's may be taken away again."""
    records = await records_of(reader(world), world.places(PARKED))
    return sum(one.key.decode().endswith(f"\x1f{request_id}") for one in records)


async def test_a_run_that_was_parked_says_under_its_next_owner_what_that_one_lacks(
    world: MemoryLanes,
) -> None:
    """It was parked by who had everything; and its journal began before what a lane reads back."""
    world = world.changed(park_after_s=0.01, partitions=1)
    ahead_ms = 2 * 86_400_000
    async with upstream(world) as program:
        async with owner_with(world, "hangs") as (_, owner, called):
            owner.serve(*await ask(program, ASKED, template="own"))
            await asyncio.wait_for(called.wait(), 30)
            await read_topic(world, PARKED, RunParked, count=1)
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            await read_topic(world, HOLDS, HoldPlaced, count=1)
        async with lane_services(world) as today:
            services = replace(today, clock_ms=lambda: wall_clock_ms() + ahead_ms)
            async with one_lane(world, services, None) as owner:
                sent, value = await ask(program, "say: x", user_id="bob", request_id="b1")
                owner.serve(sent._replace(timestamp=sent.timestamp + ahead_ms), value)
                await read_topic(world, RESULTS, AgentResult, count=1)
                owner.serve(*await give(world, program, "resume", request_id="r1"))
                await eventually(lambda: bool(owner.lane.lacking))
                await eventually(lambda: newest_parked(world).waits_for is not None)
                first = newest_parked(world)
                count = await times_parked(world, "r1")
            async with one_lane(world, services, None) as owner:
                await eventually(lambda: bool(owner.lane.lacking))
                assert await times_parked(world, "r1") == count
                put_mail(services, "answers")
                services.factory.register(OWN)
                *_, result = await read_topic(world, RESULTS, AgentResult, count=2)
    assert first.waits_for is not None
    assert (first.waits_for.template, first.waits_for.version) == ("own", "1")
    assert first.waits_for.since_ms > ahead_ms
    assert first.journal_from is not None
    assert (result.request_id, result.status, result.output) == ("r1", "completed", "said sent")
    steps = await read_whole(world, JOURNAL, JournalStep)
    assert [one.kind for one in steps].count("answered") == 2
