"""A run that is cut off goes on by its journal: what was finished is not done again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from millstream.agents.executor import wall_clock_ms
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.schemas.events import AgentResult
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.lane_events import HoldPlaced, RunParked
from millstream.schemas.topics import HOLDS, JOURNAL, PARKED, RESULTS
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

pytestmark = pytest.mark.promise("P2")

ASKED = (
    'call: calculator {"expression": "1+1"}; call: calculator {"expression": "2+2"}; '
    'call: calculator {"expression": "3+3"} + calculator {"expression": "4+4"}; '
    "say: done {tool_result}"
)
CALLS = 8
"""Of models 4, of tools 4."""

STARTS = frozenset({"model_start", "tool_start"})
ENDS = frozenset({"model_end", "tool_end"})


class Calls:
    """Hears of the calls of a run, and has the one that is `held` take for ever."""

    def __init__(self, held: int | None = None, kinds: frozenset[str] = STARTS) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self._held = held
        self._kinds = kinds
        self.is_held = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def __call__(self, event: CallbackEvent) -> None:
        """Hear of a step of a run."""
        told = f"{event.name} {event.detail if event.kind.startswith('tool') else ''}"
        if event.kind in STARTS:
            self.begun.append(told)
        elif event.kind in ENDS:
            self.ended.append(told)
        heard = self.begun if self._kinds is STARTS else self.ended
        if event.kind in self._kinds and len(heard) - 1 == self._held:
            self.is_held.set()
            await self.goes_on.wait()


async def run_with(world: MemoryLanes, calls: Sequence[Calls]) -> AgentResult:
    """Run a request with one worker after the other, each lost at what its calls hold."""
    asked: Any = None
    async with upstream(world) as program:
        for one in calls:
            async with lane_services(world, one) as services, one_lane(world, services, None) as it:
                asked = asked or await ask(program, ASKED, template="react_agent")
                it.serve(*asked)
                if one is not calls[-1]:
                    await asyncio.wait_for(one.is_held.wait(), 30)
                    continue
                (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    return result


async def journal_of(world: MemoryLanes) -> list[JournalStep]:
    return await read_whole(world, JOURNAL, JournalStep)


async def test_each_finished_call_is_on_the_journal_once_but_the_one_that_ends_the_run(
    world: MemoryLanes,
) -> None:
    result = await run_with(world, [Calls()])
    assert (result.status, result.output[:4]) == ("completed", "done")
    steps = await journal_of(world)
    assert Counter(one.kind for one in steps) == {"answered": 3, "done": 4}
    assert [one.step for one in steps] == list(range(7))
    assert steps[0].began is not None
    assert steps[0].began.template == "react_agent"
    assert all(one.began is None for one in steps[1:])


async def test_a_run_without_tools_writes_no_journal(world: MemoryLanes) -> None:
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await ask(program, "say: x"))
        owner.serve(*await ask(program, "say: y", template="react_agent", request_id="r2"))
        await read_topic(world, RESULTS, AgentResult, count=2)
    assert await journal_of(world) == []


@pytest.mark.parametrize("held", range(CALLS))
async def test_worker_lost_inside_a_call_leaves_all_that_was_finished_to_the_next_one(
    world: MemoryLanes, held: int
) -> None:
    lost, next_one = Calls(held), Calls()
    result = await run_with(world, [lost, next_one])
    assert (result.status, result.output[:4]) == ("completed", "done")
    made = Counter(lost.ended) + Counter(next_one.ended)
    whole = Calls()
    await run_with(MemoryLanes(), [whole])
    # A call beside the one that was held may have ended, and not be on the log yet.
    repeated = made - Counter(whole.ended)
    assert sum(repeated.values()) <= (held == 6)
    assert made >= Counter(whole.ended)
    steps = await journal_of(world)
    assert [one.step for one in steps] == list(range(7))


@pytest.mark.parametrize("days", [0, 2], ids=["at once", "beyond what a lane reads back"])
async def test_run_that_was_paused_goes_on_behind_what_it_did_however_long_that_was(
    world: MemoryLanes, days: int
) -> None:
    world = world.changed(partitions=1)
    lost, next_one = Calls(2), Calls()
    ahead_ms = days * 86_400_000
    async with upstream(world) as program:
        async with lane_services(world, lost) as services, one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, ASKED, template="react_agent"))
            await asyncio.wait_for(lost.is_held.wait(), 30)
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            await read_topic(world, HOLDS, HoldPlaced, count=1)
            lost.goes_on.set()
            (parked,) = (await read_topic(world, PARKED, RunParked, count=1))[-1:]
        assert (parked.journal_from, parked.journal_steps) != (None, 0)
        async with lane_services(world, next_one) as today:
            services = replace(today, clock_ms=lambda: wall_clock_ms() + ahead_ms)
            async with one_lane(world, services, None) as owner:
                sent, value = await ask(program, "say: x", user_id="bob", request_id="b1")
                owner.serve(sent._replace(timestamp=sent.timestamp + ahead_ms), value)
                await read_topic(world, RESULTS, AgentResult, count=1)
            async with one_lane(world, services, None) as owner:
                owner.serve(*await give(world, program, "resume", request_id="r1"))
                result = (await read_topic(world, RESULTS, AgentResult, count=2))[-1]
    assert (result.request_id, result.status) == ("r1", "completed")
    ended = Counter(lost.ended) + Counter(next_one.ended)
    whole = Calls()
    await run_with(MemoryLanes(), [whole])
    assert {one: count for one, count in ended.items() if one != "scripted "} == {
        one: count for one, count in Counter(whole.ended).items() if one != "scripted "
    }
    steps = await journal_of(world)
    assert [one.step for one in steps] == list(range(7))


async def test_a_journal_of_which_steps_are_gone_leaves_its_run_in_doubt(
    world: MemoryLanes,
) -> None:
    lost, next_one = Calls(4), Calls()
    async with upstream(world) as program:
        async with lane_services(world, lost) as services, one_lane(world, services, None) as owner:
            asked = await ask(program, ASKED, template="react_agent")
            owner.serve(*asked)
            await asyncio.wait_for(lost.is_held.wait(), 30)
        (first, *_) = [
            (where, record.offset)
            for where in world.places(JOURNAL)
            for record in world.broker.records(where)
        ]
        world.broker.delete_before(first[0], first[1] + 1)
        async with (
            lane_services(world, next_one) as services,
            one_lane(world, services, None) as owner,
        ):
            owner.serve(*asked)
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "in_doubt")
    assert "cannot be read" in result.reason.message
    assert next_one.begun == []
