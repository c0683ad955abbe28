"""Owners of a partition: who is fenced writes nothing, and what is read again counts once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiokafka import TopicPartition

from millstream.agents.attempt import RunOutcome
from millstream.agents.factory import RunPlan
from millstream.middleware.policy import Policy
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.errors import LaneFenced
from millstream.schemas.events import AgentResult, Decision, ResolvedRequest
from millstream.schemas.lane_events import LaneOpened
from millstream.schemas.reasons import result_of
from millstream.schemas.topics import DEAD_LETTERS, DECISIONS, LANES, RESULTS, SNAPSHOTS
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.io import MemoryLaneIO
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    upstream,
)
from tests.support import eventually

TWO_AN_HOUR = Policy.from_yaml("defaults: {rate: {requests: 2, window_s: 3600}}", "test")


class Interrupted(MemoryLaneIO):
    """Lets something happen when a lane begins to restore: it has fenced its predecessors."""

    def __init__(self, world: MemoryLanes, what: Callable[[], Awaitable[None]]) -> None:
        super().__init__(world.settings, world.broker)
        self._world, self._what = world, what
        self.interrupted = False

    def reader(self) -> PartitionReader:
        interrupted = self

        class Reader(PartitionReader):
            async def read(
                self, ends: Mapping[TopicPartition, int], **more: Any
            ) -> AsyncGenerator[Any, None]:
                of_snapshots = interrupted._world.topic(SNAPSHOTS) in {one.topic for one in ends}
                if of_snapshots and not interrupted.interrupted:
                    interrupted.interrupted = True
                    await interrupted._what()
                async for record in super().read(ends, **more):
                    yield record

        return Reader(self._world.settings, self._clients)


async def decided(world: MemoryLanes, *, count: int) -> list[tuple[str, bool]]:
    decisions = await read_topic(world, DECISIONS, Decision, count=count)
    return [(one.request_id, one.admitted) for one in decisions]


@pytest.mark.rule(5)
@pytest.mark.parametrize("commits", range(3))
async def test_every_producer_of_the_last_owner_is_fenced_before_a_new_one_restores(
    world: MemoryLanes, commits: int
) -> None:
    world = world.changed(template_unknown_wait_s=0)  # refused at once
    async with (
        AsyncExitStack() as stack,
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as zombie,
    ):
        refused = {"template": "no_such"}  # one transaction each, and one producer after the other
        for number in range(commits):
            zombie.serve(*await ask(program, "x", request_id=f"r{number}", **refused))
            await decided(world, count=number + 1)

        async def before_restore() -> None:
            zombie.serve(*await ask(program, "x", request_id="late", **refused))
            assert isinstance(await asyncio.wait_for(zombie.lane.lost, 10), LaneFenced)

        io = Interrupted(world, before_restore)
        await stack.enter_async_context(one_lane(world, services, None, io=io))
        assert io.interrupted
    assert len(await read_whole(world, DECISIONS, Decision)) == commits


@pytest.mark.rule(6)
async def test_a_lane_that_is_fenced_before_its_generation_is_committed_never_serves(
    world: MemoryLanes,
) -> None:
    async with lane_services(world) as services, AsyncExitStack() as stack:

        async def overtake() -> None:
            await stack.enter_async_context(one_lane(world, services, None))

        io = Interrupted(world, overtake)
        with pytest.raises(LaneFenced):
            await stack.enter_async_context(one_lane(world, services, None, io=io))
    assert [one.generation for one in await read_whole(world, LANES, LaneOpened)] == [1]


@pytest.mark.promise("P5")
async def test_a_record_that_is_processed_again_is_counted_once(world: MemoryLanes) -> None:
    async with lane_services(world) as services, upstream(world) as program:
        first = await ask(program, "hang")
        async with one_lane(world, services, TWO_AN_HOUR) as owner:
            owner.serve(*first)
            await read_topic(world, DECISIONS, Decision, count=1)
        async with one_lane(world, services, TWO_AN_HOUR) as owner:
            owner.serve(*first)
            owner.serve(*await ask(program, "hang"))  # the same request, published again
            owner.serve(*await ask(program, "say: x", request_id="r2"))
            owner.serve(*await ask(program, "say: x", request_id="r3"))
            told = await decided(world, count=3)
        # Restored once more: finished or not, each counts as it did.
        async with one_lane(world, services, TWO_AN_HOUR) as owner:
            owner.serve(*first)
            owner.serve(*await ask(program, "say: x", request_id="r4"))
            told = await decided(world, count=4)
    assert told == [("r1", True), ("r2", True), ("r3", False), ("r4", False)]


@pytest.mark.promise("P5")
async def test_what_a_zombie_decides_counts_for_nothing(world: MemoryLanes) -> None:
    async with lane_services(world) as services, upstream(world) as program:
        async with (
            one_lane(world, services, TWO_AN_HOUR) as zombie,
            one_lane(world, services, TWO_AN_HOUR) as owner,
        ):
            for number in (1, 2):
                zombie.serve(*await ask(program, "say: x", request_id=f"zombie-{number}"))
            await asyncio.wait_for(zombie.lane.lost, 30)
            for number in (1, 2):
                owner.serve(*await ask(program, "say: x", request_id=f"r{number}"))
            await read_topic(world, RESULTS, AgentResult, count=2)
        async with one_lane(world, services, TWO_AN_HOUR) as owner:
            owner.serve(*await ask(program, "say: x", request_id="r3"))
            told = await decided(world, count=3)
    assert told == [("r1", True), ("r2", True), ("r3", False)]


@pytest.mark.rule(3)
async def test_a_record_is_buried_once_and_acknowledged_only_then(world: MemoryLanes) -> None:
    value: dict[str, Any] = {"user_id": "ada"}  # it asks for nothing
    async with lane_services(world) as services, upstream(world) as program:
        served = await program.publish(value, key=b"ada"), value
        async with (
            one_lane(world, services, None) as zombie,
            one_lane(world, services, None) as owner,
        ):
            zombie.serve(*served)
            await asyncio.wait_for(zombie.lane.lost, 30)
            assert zombie.acked == []
            owner.serve(*served)
            await eventually(lambda: owner.acked)
            assert len(await read_whole(world, DEAD_LETTERS, DeadLetter)) == 1
        async with one_lane(world, services, None) as owner:
            owner.serve(*served)
            owner.serve(*await ask(program, "say: x"))
            await read_topic(world, RESULTS, AgentResult, count=1)
            assert len(owner.acked) == 2
    assert len(await read_whole(world, DEAD_LETTERS, DeadLetter)) == 1


@pytest.mark.rule(6)
async def test_a_request_is_begun_no_more_often_than_one_owner_has_numbers_for(
    world: MemoryLanes,
) -> None:
    numbers: list[int] = []

    async def pause(
        request: ResolvedRequest, _plan: RunPlan, *, attempt: int, **_: object
    ) -> RunOutcome:
        """Stop before a call, as an attempt does whose request is paused and at once resumed."""
        numbers.append(attempt)
        stopped = result_of(request, at_ms=0, status="failed", attempt=attempt)
        return RunOutcome(stopped, checkpoint=None, suspended=True)

    async with lane_services(world) as services, upstream(world) as program:
        pausing = dataclasses.replace(services, run_agent=pause)
        async with one_lane(world, pausing, None) as owner:
            owner.serve(*await ask(program, "x"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert numbers == list(range(1000, 2000))
    assert (result.status, result.attempt) == ("failed", 1999)
    assert result.reason is not None
    assert result.reason.code == "attempts_exhausted"
