"""Commands are carried out once, whoever reads them again, and leave nothing behind."""

from __future__ import annotations

from schemas.base import Address
from schemas.events import AgentResult, CommandObeyed, DeadLetter, HoldPlaced
from schemas.topics import CONTROL, DEAD_LETTERS, HOLDS, OBEYED, RESULTS
from streams.intake import origin_header
from streams.settings import Settings
from tests.lane_harness import (
    OneLane,
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


async def acked_commands(settings: Settings, owner: OneLane, *, count: int) -> None:
    await eventually(lambda: owner.acked_of[settings.topic(CONTROL.name)] == count)


async def statuses(settings: Settings, *, count: int) -> dict[str, str]:
    results = await read_topic(settings, RESULTS, AgentResult, count=count)
    return {result.request_id: result.status for result in results}


async def test_a_cancel_that_was_carried_out_ends_nothing_that_came_later(
    settings: Settings,
) -> None:
    async with lane_services(settings) as services, upstream(settings) as program:
        async with one_lane(settings, services, None) as owner:
            owner.serve(*await ask(program, "hang", session_id="s"))
            cancel = await give(settings, program, "cancel", session_id="s")
            owner.serve(*cancel)
            await acked_commands(settings, owner, count=1)
        async with one_lane(settings, services, None) as owner:
            later = await ask(program, "slow: 0.5; say: x", request_id="r2", session_id="s")
            owner.serve(*later)
            owner.serve(*cancel)  # the last owner could not acknowledge it
            told = await statuses(settings, count=2)
    assert told == {"r1": "cancelled", "r2": "completed"}
    (mark,) = await read_whole(settings, OBEYED, CommandObeyed)
    assert (mark.command, mark.session_id, mark.source.offset) == ("cancel", "s", cancel[0].offset)


async def test_a_cancel_that_was_cut_short_ends_what_had_come_and_no_more(
    settings: Settings,
) -> None:
    async with lane_services(settings) as services, upstream(settings) as program:
        before = await ask(program, "hang", session_id="s")
        cancel = await give(settings, program, "cancel", session_id="s")
        later = await ask(program, "slow: 0.5; say: x", request_id="r2", session_id="s")
        # Its last owner may have ended the first request, and its user asked on, before it crashed.
        async with one_lane(settings, services, None) as owner:
            owner.serve(*before)
            owner.serve(*later)
            owner.serve(*cancel)
            told = await statuses(settings, count=2)
    assert told == {"r1": "cancelled", "r2": "completed"}


async def test_a_command_that_is_moved_twice_is_one(settings: Settings) -> None:
    origin = origin_header(Address(topic=settings.topic(CONTROL.name), partition=99, offset=7))
    async with lane_services(settings) as services, upstream(settings) as program:
        moved, again = [await give(settings, program, "pause", request_id="r1") for _ in range(2)]
        resume = await give(settings, program, "resume", request_id="r1")
        async with one_lane(settings, services, None) as owner:
            owner.serve(*moved, origin)
            await acked_commands(settings, owner, count=1)
            assert len(await open_keys(settings, HOLDS)) == 1
            owner.serve(*resume)
            await acked_commands(settings, owner, count=2)
        async with one_lane(settings, services, None) as owner:
            owner.serve(*again, origin)  # by a worker that slept, say
            owner.serve(*await ask(program, "say: x"))
            assert await statuses(settings, count=1) == {"r1": "completed"}
            await acked_commands(settings, owner, count=1)
    assert await open_keys(settings, HOLDS) == set()


async def test_a_command_that_cannot_be_read_is_buried_once(settings: Settings) -> None:
    async with lane_services(settings) as services, upstream(settings) as program:
        unreadable = await give(settings, program, "dance", request_id="r1")
        for _ in range(2):
            async with one_lane(settings, services, None) as owner:
                owner.serve(*unreadable)
                await acked_commands(settings, owner, count=1)
    assert len(await read_whole(settings, DEAD_LETTERS, DeadLetter)) == 1


async def test_no_hold_outlives_its_request(settings: Settings) -> None:
    async with (
        lane_services(settings) as services,
        upstream(settings) as program,
        one_lane(settings, services, None) as owner,
    ):
        for request_id in ("cancelled", "refused"):
            owner.serve(*await give(settings, program, "pause", request_id=request_id))
        await read_topic(settings, HOLDS, HoldPlaced, count=2)
        owner.serve(*await give(settings, program, "cancel", request_id="cancelled"))
        owner.serve(*await ask(program, "say: x", request_id="refused", template="nope"))
        told = await statuses(settings, count=2)
        await acked_commands(settings, owner, count=3)
    assert told == {"cancelled": "cancelled", "refused": "rejected"}
    assert await open_keys(settings, HOLDS) == set()
