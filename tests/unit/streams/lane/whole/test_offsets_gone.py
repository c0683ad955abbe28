"""A group that has nothing committed: the lane goes by its own record, and says so once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from millstream.agents.executor import AgentExecutor, wall_clock_ms
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import DEAD_LETTERS, REQUESTS, RESULTS
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.base.window import Window
from millstream.streams.settings import Settings
from millstream.streams.wire.records import InputRecord
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    ask,
    lane_services,
    one_lane,
    read_whole,
    upstream,
)
from tests.support import eventually

pytestmark = [pytest.mark.rule(3), pytest.mark.promise("P1")]

DAY_MS = 86_400_000


class Calendar:
    """A clock of both the broker and the worker, which a test may set on."""

    def __init__(self) -> None:
        self.ahead_ms = 0
        self._last_ms = 0

    def __call__(self) -> int:
        """Give the time; no two records have the same."""
        self._last_ms = max(self._last_ms + 1, wall_clock_ms() + self.ahead_ms)
        return self._last_ms


async def answered(world: MemoryLanes, count: int = 0) -> list[str]:
    found = [one.request_id for one in await read_whole(world, RESULTS, AgentResult)]
    return found if len(found) >= count else []


def counted(services: LaneServices) -> float:
    return float(services.metrics.offsets_gone.labels(topic=REQUESTS.name)._value.get())


def lose_offsets(owner: OneLane, topic: str) -> None:
    """Have the group know nothing of where it stood, as Kafka says to a new owner."""
    owner._windows[topic] = Window[InputRecord](9)
    owner._windows[topic].may_come_again()


async def test_what_was_answered_has_no_second_result_though_its_id_is_forgotten() -> None:
    clock = Calendar()
    settings = Settings(namespace="memory", partitions=1)
    world = MemoryLanes(settings, broker=MemoryBroker(settings, clock))
    served: list[tuple[Any, dict[str, Any]]] = []
    async with lane_services(world) as clocked, upstream(world) as program:
        executor = AgentExecutor(clocked.factory, clock_ms=clock)
        services = replace(clocked, clock_ms=clock, run_agent=executor.run)
        async with one_lane(world, services, None) as first:
            served += [await ask(program, "say: old", request_id=f"old-{n}") for n in range(2)]
            # One that nobody can read is not buried twice either.
            served.insert(0, ((await ask(program, "", request_id="x"))[0], {"user_id": 7}))
            served.sort(key=lambda one: one[0].offset)
            for one in served:
                first.serve(*one)
            await eventually(lambda: answered(world, 2))
            await eventually(lambda: len(first.acked) == 3)
        clock.ahead_ms = 3 * DAY_MS
        async with one_lane(world, services, None) as second:
            served.append(await ask(program, "say: new", request_id="new"))
            second.serve(*served[-1])
            await eventually(lambda: answered(world, 3))
        assert counted(services) == 0
        clock.ahead_ms = 10 * DAY_MS
        async with one_lane(world, services, None) as third:
            topic = served[0][0].topic
            lose_offsets(third, topic)
            for one in served:
                # A next owner must know that it is in the midst of what comes again.
                assert third._windows[topic].is_catching_up
                third.serve(*one)
            # It goes by its own record up to where it stood, and no further.
            await eventually(lambda: not third._windows[topic].is_catching_up)
            third.serve(*await ask(program, "say: next", request_id="next"))
            await eventually(lambda: len(third.acked) == 5)
            assert third._windows[topic]._again_before == 0
        assert counted(services) == 1
        (told,) = services.gaps.told()
        assert "committed offsets are gone" in told
    assert sorted(await answered(world)) == ["new", "next", "old-0", "old-1"]
    assert len(await read_whole(world, DEAD_LETTERS, DeadLetter)) == 1


async def test_a_group_that_is_new_is_told_of_nothing(world: MemoryLanes) -> None:
    world = world.changed(partitions=1)
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            first = await ask(program, "say: a", request_id="first")
            lose_offsets(owner, first[0].topic)
            owner.serve(*first)
            # One that is a request of the same id again was not read before either.
            owner.serve(*await ask(program, "say: a", request_id="first"))
            await eventually(lambda: answered(world, 1))
        assert counted(services) == 0
    assert await answered(world) == ["first"]


async def test_an_owner_that_was_killed_in_its_first_request_had_nothing_to_commit(
    world: MemoryLanes,
) -> None:
    world = world.changed(partitions=1)
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as killed:
            first = await ask(program, "hang", request_id="first")
            second = await ask(program, "say: b", request_id="second")
            killed.serve(*first)
            killed.serve(*second)
            await eventually(lambda: answered(world, 1))
        async with one_lane(world, services, None) as owner:
            lose_offsets(owner, first[0].topic)
            owner.serve(*first)
            owner.serve(*second)
        assert counted(services) == 0
        assert services.gaps.told() == []
    assert await answered(world) == ["second"]
