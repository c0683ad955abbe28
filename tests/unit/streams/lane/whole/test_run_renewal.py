"""A run that waits for longer than the log keeps anything goes on from what it did all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from millstream.agents.executor import wall_clock_ms
from millstream.schemas.events import AgentResult, CheckpointSaved
from millstream.schemas.lane_events import CommandObeyed, HoldPlaced, RunParked
from millstream.schemas.topics import (
    CHECKPOINTS,
    DAY_MS,
    HOLDS,
    JOURNAL,
    OBEYED,
    PARKED,
    RESULTS,
    TopicSpec,
)
from millstream.streams.lane.base.context import LaneServices
from tests.harness.journalled import CLERK, Hold, Outside, journal_of
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    ask,
    give,
    lane_services,
    newest_parked,
    one_lane,
    open_keys,
    read_topic,
    read_whole,
    upstream,
)
from tests.support import eventually

pytestmark = pytest.mark.promise("P2")

TEXT = 'call: put {"n": 1}; call: look {"n": 2} + pay {"n": 3}; say: done'
STEPS = 5
"""Of its journal, once it stands still as its second tools were called."""


@pytest.fixture
def world(world: MemoryLanes) -> MemoryLanes:
    return world.changed(partitions=1).limited(look_who_is_old_every_s=0.01)


@asynccontextmanager
async def owner_after(
    world: MemoryLanes, outside: Outside, days: float
) -> AsyncIterator[tuple[LaneServices, OneLane]]:
    """Open a lane whose clock is `days` ahead."""
    outside.begin_worker(outside.hold)
    async with lane_services(world, outside, [CLERK], tools=outside.tools()) as today:
        services = replace(today, clock_ms=lambda: wall_clock_ms() + round(days * DAY_MS))
        async with one_lane(world, services, None) as owner:
            yield services, owner


async def paused(world: MemoryLanes, program: Any, outside: Outside, owner: OneLane) -> RunParked:
    """Have a run paused as its second tools are called; gives its record."""
    owner.serve(*await ask(program, TEXT, template="clerk", session_id="s"))
    await asyncio.wait_for(outside.is_held.wait(), 10)
    owner.serve(*await give(world, program, "pause", request_id="r1"))
    await read_topic(world, HOLDS, HoldPlaced, count=1)
    outside.goes_on.set()
    await eventually(lambda: owner.lane.waiting == 1)
    return newest_parked(world)


async def renewed(world: MemoryLanes) -> RunParked:
    """Wait until the run that waits was written anew."""

    async def is_renewed() -> bool:
        return newest_parked(world).renewed_ms is not None

    await eventually(is_renewed)
    return newest_parked(world)


def digests_of(owner: OneLane) -> dict[str, str]:
    """Give the digests of what a lane knows, but for how many owners there were."""
    digests = owner.lane._state.folds.digests()
    return {name: one for name, one in digests.items() if name != "generation"}


def forget(world: MemoryLanes, spec: TopicSpec, count: int) -> None:
    """Delete the oldest records of a topic, as retention does."""
    (where,) = world.places(spec)
    world.broker.delete_before(where, world.broker.records(where)[count].offset)


async def resumed(world: MemoryLanes, program: Any, owner: OneLane, *, count: int) -> AgentResult:
    owner.serve(*await give(world, program, "resume", request_id="r1"))
    return (await read_topic(world, RESULTS, AgentResult, count=count))[-1]


@pytest.mark.parametrize("held", ["begun", "said"])
@pytest.mark.parametrize("owners", [1, 2, 3])
async def test_a_run_that_was_paused_for_longer_than_its_journal_is_kept_goes_on(
    world: MemoryLanes, owners: int, held: str
) -> None:
    outside = Outside(timeout_s=5, hold=Hold(held, 1))
    async with upstream(world) as program:
        async with owner_after(world, outside, 0) as (_, owner):
            first = await paused(world, program, outside, owner)
            before = await journal_of(world)
        outside.hold = None
        async with owner_after(world, outside, 16) as (_, owner):
            again = await renewed(world)
            forget(world, JOURNAL, len(before))
            if owners == 1:
                result = await resumed(world, program, owner, count=1)
        if owners > 1:
            # The second is later than what a lane reads back, and renews them once more.
            async with owner_after(world, outside, 18 if owners == 2 else 33) as (_, owner):
                if owners == 3:

                    async def is_renewed_again() -> bool:
                        return newest_parked(world).renewed_ms != again.renewed_ms

                    await eventually(is_renewed_again)
                    forget(world, JOURNAL, len(before))
                result = await resumed(world, program, owner, count=1)
    assert (result.status, result.output) == ("completed", "done")
    assert sorted(name for name, _ in outside.begun) == ["look 2", "pay 3", "put 1"]
    assert len(outside.models) == 3
    assert first.journal_steps == again.journal_steps == len(before)
    assert again.at_ms == first.at_ms
    assert await open_keys(world, PARKED) == set()
    copies = [one for one in await journal_of(world) if one.renewed_ms is not None]
    assert [one.step for one in copies] == list(range(len(before)))


async def test_copies_are_what_was_written_and_count_once(world: MemoryLanes) -> None:
    outside = Outside(timeout_s=5, hold=Hold("begun", 1))
    async with upstream(world) as program:
        async with owner_after(world, outside, 0) as (_, owner):
            await paused(world, program, outside, owner)
            bills = owner.lane._state.open_attempts.open.copy()
        before = await journal_of(world)
        outside.hold = None
        async with owner_after(world, outside, 16) as (_, owner):
            await renewed(world)
            state = owner.lane._state
            assert state.open_attempts.open == bills
            known, digests = state.journals.open, digests_of(owner)
            (journal,) = known.values()
        # As the next one folds them: all of it, and the copies alone.
        for count in (0, len(before)):
            forget(world, JOURNAL, count)
            async with owner_after(world, outside, 16) as (_, owner):
                state = owner.lane._state
                assert state.journals.open == known
                if not count:
                    assert state.open_attempts.open == bills
                    assert digests_of(owner) == digests
    copies = await journal_of(world)
    once = {"used": (), "cost_micros": None}
    assert [one.model_copy(update={"renewed_ms": None}) for one in copies] == [
        one.model_copy(update=once) for one in before
    ]
    assert len(journal.offsets) == len(before)


async def test_the_checkpoint_that_a_waiting_run_goes_on_from_is_kept_with_its_session(
    world: MemoryLanes,
) -> None:
    outside = Outside(timeout_s=5, hold=Hold("begun", 1))
    async with upstream(world) as program:
        async with owner_after(world, outside, 0) as (_, owner):
            turn = await ask(
                program, "say: hello", template="clerk", request_id="r0", session_id="s"
            )
            owner.serve(*turn)
            await read_topic(world, RESULTS, AgentResult, count=1)
            await paused(world, program, outside, owner)
            before = await journal_of(world)
        outside.hold = None
        async with owner_after(world, outside, 16) as (_, owner):
            await renewed(world)
            forget(world, JOURNAL, len(before))
            forget(world, CHECKPOINTS, 1)
        # By now the session would have begun anew, and the question would be another one.
        async with owner_after(world, outside, 31) as (_, owner):
            result = await resumed(world, program, owner, count=2)
            (saved, *_) = await read_whole(world, CHECKPOINTS, CheckpointSaved)
            head = owner.lane._state.heads.get(("default", "ada", "s"))
    assert (result.status, result.output, result.turn) == ("completed", "done", 2)
    assert saved.renewed_ms is not None
    assert saved.turn == 1
    assert head is not None
    assert head.turn == 2


async def test_a_run_is_left_alone_while_its_journal_is_young_and_renewed_once_when_it_is_not(
    world: MemoryLanes,
) -> None:
    outside = Outside(timeout_s=5, hold=Hold("begun", 1))
    async with upstream(world) as program:
        async with owner_after(world, outside, 0) as (_, owner):
            await paused(world, program, outside, owner)
        outside.hold = None
        async with owner_after(world, outside, 14) as (_, owner):
            looks = owner.lane._queue._renewal
            await eventually(lambda: bool(looks._watched))
            assert newest_parked(world).renewed_ms is None
        async with owner_after(world, outside, 16) as (_, owner):
            await renewed(world)
            count = len(await journal_of(world))
            # Another one that waits: the next look comes by the first one, too.
            owner.serve(*await give(world, program, "pause", request_id="r2"))
            await read_topic(world, HOLDS, HoldPlaced, count=2)
            assert len(await journal_of(world)) == count


async def test_a_journal_that_is_gone_already_ends_its_run_alone(world: MemoryLanes) -> None:
    outside = Outside(timeout_s=5, hold=Hold("begun", 1))
    async with upstream(world) as program:
        async with owner_after(world, outside, 0) as (_, owner):
            await paused(world, program, outside, owner)
        forget(world, JOURNAL, 1)
        outside.hold = None
        async with owner_after(world, outside, 31) as (_, owner):
            looks = owner.lane._queue._renewal
            await eventually(lambda: any(looks._watched.values()))
            more = {"template": "clerk", "request_id": "r2", "session_id": "other"}
            owner.serve(*await ask(program, "say: x", **more))
            await read_topic(world, RESULTS, AgentResult, count=1)
            result = await resumed(world, program, owner, count=2)
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "in_doubt")
    assert "retention deleted them" in result.reason.message


@pytest.mark.parametrize("ending", ["resume", "cancel"])
async def test_a_run_that_is_written_anew_all_the_time_ends_as_any_other(
    world: MemoryLanes, ending: str
) -> None:
    world = world.limited(renewed_after_s=0, look_who_is_old_every_s=0)
    outside = Outside(timeout_s=5, hold=Hold("begun", 1))
    async with upstream(world) as program:
        async with owner_after(world, outside, 0) as (_, owner):
            await paused(world, program, outside, owner)
            await renewed(world)
            for number in range(3):
                owner.serve(*await give(world, program, "resume", request_id="r1"))
                owner.serve(*await give(world, program, "pause", request_id="r1"))
                await read_topic(world, OBEYED, CommandObeyed, count=3 + 2 * number)
            owner.serve(*await give(world, program, ending, request_id="r1"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
            assert owner.lane._state.journals.open == {}
        async with owner_after(world, outside, 0) as (_, owner):
            assert owner.lane.waiting == 0
    assert result.status == ("cancelled" if ending == "cancel" else "completed")
    assert len(outside.models) == (2 if ending == "cancel" else 3)
    assert await open_keys(world, PARKED) == set()
