"""Commands are carried out once, whoever reads them again, and leave nothing behind."""

from __future__ import annotations

from dataclasses import replace

from millstream.agents.executor import wall_clock_ms
from millstream.schemas.base import Address, compound_key
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult, Decision
from millstream.schemas.lane_events import CommandObeyed, HoldPlaced, RunParked
from millstream.schemas.topics import (
    CONTROL,
    DEAD_LETTERS,
    DECISIONS,
    HOLDS,
    OBEYED,
    PARKED,
    REQUESTS,
    RESULTS,
)
from millstream.streams.lane.state.pauses import kept_ms
from millstream.streams.wire.records import origin_header
from tests import making
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    ask,
    give,
    lane_services,
    one_lane,
    open_keys,
    read_topic,
    read_whole,
    upstream,
    write_event,
)
from tests.harness.odd_runs import odd_lane
from tests.support import eventually


async def acked_commands(world: MemoryLanes, owner: OneLane, *, count: int) -> None:
    await eventually(lambda: owner.acked_of[world.topic(CONTROL)] == count)


async def statuses(world: MemoryLanes, *, count: int) -> dict[str, str]:
    results = await read_topic(world, RESULTS, AgentResult, count=count)
    return {result.request_id: result.status for result in results}


async def test_a_cancel_that_was_carried_out_ends_nothing_that_came_later(
    world: MemoryLanes,
) -> None:
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, "hang", session_id="s"))
            cancel = await give(world, program, "cancel", session_id="s")
            owner.serve(*cancel)
            await acked_commands(world, owner, count=1)
        async with one_lane(world, services, None) as owner:
            later = await ask(program, "slow: 0.05; say: x", request_id="r2", session_id="s")
            owner.serve(*later)
            owner.serve(*cancel)  # the last owner could not acknowledge it
            told = await statuses(world, count=2)
    assert told == {"r1": "cancelled", "r2": "completed"}
    (mark,) = await read_whole(world, OBEYED, CommandObeyed)
    assert (mark.command, mark.session_id, mark.source.offset) == ("cancel", "s", cancel[0].offset)


async def test_a_cancel_that_was_cut_short_ends_what_had_come_and_no_more(
    world: MemoryLanes,
) -> None:
    async with lane_services(world) as services, upstream(world) as program:
        before = await ask(program, "hang", session_id="s")
        cancel = await give(world, program, "cancel", session_id="s")
        later = await ask(program, "slow: 0.05; say: x", request_id="r2", session_id="s")
        # Its last owner may have ended the first request, and its user asked on, before it crashed.
        async with one_lane(world, services, None) as owner:
            owner.serve(*before)
            owner.serve(*later)
            owner.serve(*cancel)
            told = await statuses(world, count=2)
    assert told == {"r1": "cancelled", "r2": "completed"}


def holds(world: MemoryLanes) -> list[tuple[bytes | None, bool]]:
    """Give the keys of all records on `holds`, and whether each places a hold."""
    records = (one for where in world.places(HOLDS) for one in world.broker.records(where))
    return [(one.key, one.value is not None) for one in records]


async def test_a_command_finds_what_the_command_before_it_did_though_nothing_is_committed(
    world: MemoryLanes,
) -> None:
    async with odd_lane(world) as lane:
        commands = [
            await give(world, lane.program, name, session_id="s")
            for name in ("pause", "resume", "resume")
        ]
        for command in commands:
            lane.owner.serve(*command)
        marks = await read_topic(world, OBEYED, CommandObeyed, count=3)
    key = compound_key("default", "ada", "s", "s").encode()
    assert [(one.command, one.was_paused) for one in marks] == [
        ("pause", None),
        ("resume", True),
        ("resume", False),
    ]
    assert holds(world) == [(key, True), (key, False)]


async def test_a_request_whose_result_is_on_its_way_cannot_be_paused(world: MemoryLanes) -> None:
    # Nobody would ever lift that hold.
    async with odd_lane(world) as lane:
        asked = await lane.ask("r1")
        pause = await give(world, lane.program, "pause", request_id="r1")
        world.broker.go_away()
        lane.owner.serve(*asked)
        await eventually(lambda: lane.run("r1").ending)
        lane.owner.serve(*pause)
        world.broker.come_back()
        (mark,) = await read_topic(world, OBEYED, CommandObeyed, count=1)
        await read_topic(world, RESULTS, AgentResult, count=1)
    assert mark.had_ended
    assert holds(world) == []


async def test_a_hold_goes_with_the_result_that_comes_before_its_commit(
    world: MemoryLanes,
) -> None:
    async with odd_lane(world) as lane:
        await lane.submit("r1", "hang")
        pause, cancel = [
            await give(world, lane.program, name, request_id="r1") for name in ("pause", "cancel")
        ]
        lane.owner.serve(*pause)
        lane.owner.serve(*cancel)
        marks = await read_topic(world, OBEYED, CommandObeyed, count=2)
    assert {(one.command, one.had_ended) for one in marks} == {("pause", False), ("cancel", None)}
    ((placed, is_placed), (lifted, is_still_placed)) = holds(world)
    assert (placed, is_placed, is_still_placed) == (lifted, True, False)


async def test_a_session_is_cancelled_with_what_was_not_read_yet(world: MemoryLanes) -> None:
    async with lane_services(world) as services, upstream(world) as program:
        unread = [await ask(program, "say: x", request_id=f"r{n}", session_id="s") for n in (1, 2)]
        other = await ask(program, "say: x", request_id="r3", session_id="another")
        cancel = await give(world, program, "cancel", session_id="s")
        async with one_lane(world, services, None) as owner:
            owner.serve(*cancel)
            await acked_commands(world, owner, count=1)
            owner.serve(*unread[0])
            assert await statuses(world, count=1) == {"r1": "cancelled"}
        async with one_lane(world, services, None) as owner:
            owner.serve(*unread[0])  # it was not acknowledged
            owner.serve(*unread[1])
            owner.serve(*other)
            owner.serve(*await ask(program, "say: x", request_id="r4", session_id="s"))
            told = await statuses(world, count=4)
    assert told == {"r1": "cancelled", "r2": "cancelled", "r3": "completed", "r4": "completed"}
    # Nothing was decided on them: they count for no limit.
    decided = {one.request_id for one in await read_whole(world, DECISIONS, Decision)}
    assert decided == {"r3", "r4"}


async def test_a_session_is_cancelled_with_what_is_moved_to_its_partition_later(
    world: MemoryLanes,
) -> None:
    elsewhere = Address(topic=world.topic(REQUESTS), partition=99, offset=7)
    async with lane_services(world) as services, upstream(world) as program:
        cancel = await give(world, program, "cancel", session_id="s")
        moved = await ask(program, "say: x", session_id="s")
        later = await ask(program, "say: x", session_id="s", request_id="r2")
        came_ms = cancel[0].timestamp
        async with one_lane(world, services, None) as owner:
            owner.serve(*cancel)
            await acked_commands(world, owner, count=1)
            owner.serve(*moved, origin_header(elsewhere, came_ms))
            owner.serve(*later, origin_header(elsewhere, came_ms + 1))
            told = await statuses(world, count=2)
    assert told == {"r1": "cancelled", "r2": "completed"}


async def test_what_is_parked_of_a_cancelled_session_ends_though_its_owner_was_lost_over_it(
    world: MemoryLanes,
) -> None:
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            owner.serve(*await give(world, program, "pause", session_id="s"))
            await acked_commands(world, owner, count=1)
            for number in (1, 2):
                more = {"request_id": f"r{number}", "session_id": "s"}
                owner.serve(*await ask(program, "say: x", **more))
            await eventually(lambda: owner.lane.waiting == 2)
            (first, _) = await read_topic(world, PARKED, RunParked, count=2)
        # All that the owner did of the cancel before it crashed.
        mark = making.obeyed(
            session_id="s",
            until_ms=first.request.at_ms,
            source=Address(topic=world.topic(CONTROL), partition=99, offset=7),
        )
        await write_event(world, program, OBEYED, mark)
        async with one_lane(world, services, None) as owner:
            assert await statuses(world, count=1) == {"r1": "cancelled"}
            owner.serve(*await give(world, program, "resume", session_id="s"))
            assert (await statuses(world, count=2))["r2"] == "completed"
    assert await open_keys(world, PARKED) == set()


async def test_a_command_that_cannot_be_read_is_buried_once(world: MemoryLanes) -> None:
    async with lane_services(world) as services, upstream(world) as program:
        unreadable = await give(world, program, "dance", request_id="r1")
        for _ in range(2):
            async with one_lane(world, services, None) as owner:
                owner.serve(*unreadable)
                await acked_commands(world, owner, count=1)
    assert len(await read_whole(world, DEAD_LETTERS, DeadLetter)) == 1


async def test_no_hold_outlives_its_request(world: MemoryLanes) -> None:
    world = world.changed(template_unknown_wait_s=0)  # else the hold would keep it waiting
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        for request_id in ("cancelled", "refused"):
            owner.serve(*await give(world, program, "pause", request_id=request_id))
        await read_topic(world, HOLDS, HoldPlaced, count=2)
        owner.serve(*await give(world, program, "cancel", request_id="cancelled"))
        owner.serve(*await ask(program, "say: x", request_id="refused", template="nope"))
        told = await statuses(world, count=2)
        await acked_commands(world, owner, count=3)
    assert told == {"cancelled": "cancelled", "refused": "rejected"}
    assert await open_keys(world, HOLDS) == set()


async def test_a_hold_says_when_its_command_came_though_that_says_nothing(
    world: MemoryLanes,
) -> None:
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        pause = await give(world, program, "pause", request_id="r1")
        owner.serve(*pause)
        (hold,) = await read_topic(world, HOLDS, HoldPlaced, count=1)
    assert hold.at_ms == pause[0].timestamp


async def test_a_hold_on_a_request_that_never_comes_lapses_and_one_on_a_session_stays(
    world: MemoryLanes,
) -> None:
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            owner.serve(*await give(world, program, "pause", request_id="never"))
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            owner.serve(*await ask(program, "say: x"))
            owner.serve(*await give(world, program, "pause", session_id="s"))
            await acked_commands(world, owner, count=3)
            await eventually(lambda: owner.acked_of[world.topic(REQUESTS)] == 1)
        before = await open_keys(world, HOLDS)
        async with one_lane(world, services, None):
            assert await open_keys(world, HOLDS) == before
        kept = kept_ms(world.settings.retention)
        later = replace(services, clock_ms=lambda: wall_clock_ms() + kept)
        async with one_lane(world, later, None):
            left = await open_keys(world, HOLDS)
    targets = [("r", "r1"), ("s", "s")]
    assert left == {compound_key("default", "ada", *target).encode() for target in targets}
    assert len(before) == 3


async def test_a_hold_on_what_an_earlier_stage_refused_lapses_with_the_next_owner(
    world: MemoryLanes,
) -> None:
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            await acked_commands(world, owner, count=1)
        refused = making.result(
            status="rejected",
            at_ms=wall_clock_ms(),
            source=Address(topic=world.topic(REQUESTS), partition=0, offset=0),
        )
        await write_event(world, program, RESULTS, refused)
        assert len(await open_keys(world, HOLDS)) == 1
        async with one_lane(world, services, None):
            assert await open_keys(world, HOLDS) == set()
