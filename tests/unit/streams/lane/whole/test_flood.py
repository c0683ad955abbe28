"""A user who floods: what is too much is left where it stands, and taken in when there is room."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition

from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import CommandObeyed, HoldPlaced, RequestsDeferred
from millstream.schemas.topics import (
    DEAD_LETTERS,
    DEFERRED,
    HOLDS,
    OBEYED,
    REQUESTS,
    RESULTS,
)
from tests.contracts.waiting_lane_contract import LITTLE_ROOM, in_order
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    Upstream,
    ask,
    give,
    lane_services,
    one_lane,
    open_keys,
    read_topic,
    read_whole,
    upstream,
)
from tests.support import eventually

pytestmark = pytest.mark.rule(9)


def small(world: MemoryLanes, **changes: object) -> MemoryLanes:
    """A lane that has room for few, and lets few of a user wait."""
    return world.changed(**{**LITTLE_ROOM, "park_after_s": 0.02, **changes})


async def flood(
    owner: OneLane, program: Upstream, count: int, text: str = "slow: 0.005; say: x"
) -> list[Any]:
    """Ask for so much in ada's name, in two sessions; gives where the records stand."""
    sent = []
    for number in range(count):
        more = {"request_id": f"a{number}", "session_id": f"s{number % 2}"}
        sent.append(await ask(program, text, **more))
        owner.serve(*sent[-1])
    return [where for where, _ in sent]


async def results(world: MemoryLanes, count: int) -> list[AgentResult]:
    return await read_topic(world, RESULTS, AgentResult, count=count)


async def is_forgotten(world: MemoryLanes) -> bool:
    return not await open_keys(world, DEFERRED)


async def test_a_flood_is_read_past_before_it_is_served(world: MemoryLanes) -> None:
    world = world.changed(partitions=1)
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        sent = [await ask(program, "say: x", request_id=f"a{number}") for number in range(150)]
        for one in sent:
            owner.serve(*one, is_behind=True)
        assert owner.lane.deferred == 50
        await results(world, 150)
        await eventually(lambda: is_forgotten(world))
    found = await read_whole(world, RESULTS, AgentResult)
    assert len({one.request_id for one in found}) == len(found) == 150


async def test_a_new_owner_finds_what_was_left_and_answers_each_once(world: MemoryLanes) -> None:
    world = small(world)
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as first:
            await flood(first, program, 30)
            await eventually(lambda: len(first.acked) > 25)
        assert len(await read_topic(world, DEFERRED, RequestsDeferred, count=1)) == 1
        async with one_lane(world, services, None):
            await results(world, 30)
            await eventually(lambda: services.metrics.runs_in_flight._value.get() == 0)
        # What the owner before had not yet written down is found to be done.
        async with one_lane(world, services, None) as third:
            await eventually(lambda: third.lane.deferred == 0)
            third.serve(*await ask(program, "say: x", request_id="last"))
            await results(world, 31)
    found = await read_whole(world, RESULTS, AgentResult)
    assert sorted(one.request_id for one in found) == sorted(
        [*(f"a{n}" for n in range(30)), "last"]
    )
    assert in_order([one for one in found if one.request_id != "last"], "s0")
    assert {one.status for one in found} == {"completed"}


async def test_one_that_is_left_can_be_cancelled(world: MemoryLanes) -> None:
    world = small(world)
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        await flood(owner, program, 20)
        owner.serve(*await give(world, program, "cancel", request_id="a19"))
        found = await results(world, 20)
        await eventually(lambda: owner.lane.deferred == 0)
    assert [one.request_id for one in found if one.status == "cancelled"] == ["a19"]
    assert len({one.request_id for one in found}) == 20


async def test_a_session_is_cancelled_with_what_is_left_of_it_also_by_a_new_owner(
    world: MemoryLanes,
) -> None:
    world = small(world)
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            await flood(owner, program, 30, "slow: 0.02; say: x")
            assert owner.lane.deferred > 10
            owner.serve(*await give(world, program, "cancel", session_id="s1"))
            await read_topic(world, OBEYED, CommandObeyed, count=1)
            later = {"request_id": "a31", "session_id": "s1"}
            owner.serve(*await ask(program, "say: x", **later))
        async with one_lane(world, services, None) as again:
            found = await results(world, 31)
            await eventually(lambda: again.lane.deferred == 0)
    ended = {one.request_id: one.status for one in found}
    assert {ended[f"a{number}"] for number in range(0, 30, 2)} == {"completed"}
    assert {ended[f"a{number}"] for number in range(5, 30, 2)} == {"cancelled"}
    assert ended["a31"] == "completed"
    cancelled = [one for one in found if one.status == "cancelled"]
    assert {(one.session_id, one.reason and one.reason.code) for one in cancelled} == {
        ("s1", "cancelled")
    }


async def test_one_that_cannot_be_read_is_buried_once_when_its_turn_comes(
    world: MemoryLanes,
) -> None:
    world = small(world)
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            await flood(owner, program, 20)
            unreadable = {"user_id": "ada", "request_id": "bad"}
            sent = await program.publish(unreadable, key=b"ada")
            owner.serve(sent, unreadable)
            owner.serve(*await ask(program, "say: x", request_id="a20", session_id="s0"))
            await results(world, 21)
        async with one_lane(world, services, None) as again:
            again.serve(*await ask(program, "say: x", request_id="a21", session_id="s0"))
            await results(world, 22)
            await eventually(lambda: again.lane.deferred == 0)
    (letter,) = await read_whole(world, DEAD_LETTERS, DeadLetter)
    assert letter.source.offset == sent.offset


async def test_a_paused_session_does_not_hold_up_the_users_others(world: MemoryLanes) -> None:
    world = small(world)
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await give(world, program, "pause", session_id="s1"))
        await read_topic(world, HOLDS, HoldPlaced, count=1)
        for number in range(40):
            more = {"request_id": f"a{number}", "session_id": "s1" if number < 39 else "s0"}
            owner.serve(*await ask(program, "say: x", **more))
        (one,) = await results(world, 1)
        assert one.request_id == "a39"
        owner.serve(*await give(world, program, "resume", session_id="s1"))
        found = await results(world, 40)
    assert in_order(found, "s1")


async def test_a_line_that_is_full_of_paused_requests_leaves_room_for_others(
    world: MemoryLanes,
) -> None:
    world = small(world, parked_max=12)
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await give(world, program, "pause", session_id="s"))
        await read_topic(world, HOLDS, HoldPlaced, count=1)
        for number in range(30):
            more = {"request_id": f"a{number}", "session_id": "s"}
            owner.serve(*await ask(program, "say: x", **more))
        await eventually(lambda: owner.lane.waiting >= 6)
        for number in range(12):
            more = {"user_id": "bob", "request_id": f"b{number}", "session_id": "s"}
            owner.serve(*await ask(program, "slow: 0.005; say: x", **more))
        found = await results(world, 12)
        assert {one.user_id for one in found} == {"bob"}
        assert owner.lane.waiting <= 8
        owner.serve(*await give(world, program, "resume", session_id="s"))
        found = await results(world, 42)
    assert in_order([one for one in found if one.user_id == "ada"], "s")


async def test_those_that_retention_deletes_are_counted_and_hold_nobody_up(
    world: MemoryLanes,
) -> None:
    world = small(world)
    where = TopicPartition(world.topic(REQUESTS), 0)
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            sent = await flood(owner, program, 40, "hang")
            await eventually(lambda: len(owner.acked) == 40)
            taken = 40 - owner.lane.deferred
            world.broker.delete_before(where, sent[35].offset)
        async with one_lane(world, services, None) as again:
            for number in range(taken):
                again.serve(*await give(world, program, "cancel", request_id=f"a{number}"))
            for number in range(35, 40):
                again.serve(*await give(world, program, "cancel", request_id=f"a{number}"))
            await eventually(lambda: again.lane.deferred == 0)
            await asyncio.wait_for(results(world, taken + 5), 30)
