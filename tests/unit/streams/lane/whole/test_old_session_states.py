"""A session's state stays on the log for as long as the session is used.

Others kept a state by the age of its own record, and lost the newest one of a key after a quiet
time (karafka/karafka-web#1223).
"""

from __future__ import annotations

import time

import pytest

from millstream.schemas.sessions.commands import SessionTtl
from millstream.schemas.sessions.states import SessionChanged, SessionState
from millstream.schemas.topics import DAY_MS, HOUR_MS, SESSION_EVENTS, SESSION_STATES
from tests.harness.lane_sessions import Sessions, sessions
from tests.harness.memory_lanes import MemoryLanes, read_whole, upstream, write_event

TTL = SessionTtl(total_s=60 * DAY_MS // 1000)


@pytest.fixture(params=[1000, 1], ids=["all-in-memory", "one-in-memory"])
def world(request: pytest.FixtureRequest) -> MemoryLanes:
    return MemoryLanes().changed(sessions_in_memory=request.param)


async def created(world: MemoryLanes, ago_ms: int) -> SessionState:
    at_ms = time.time_ns() // 10**6 - ago_ms
    state = SessionState(
        user_id="ada",
        session_id="s",
        revision=1,
        created_at_ms=at_ms,
        since_ms=at_ms,
        active_at_ms=at_ms,
        at_ms=at_ms,
        ttl=TTL,
        metadata={"customer": "7"},
    )
    world.create_topics()
    async with upstream(world) as program:
        await write_event(world, program, SESSION_STATES, state)
    return state


async def states_of(world: MemoryLanes) -> list[SessionState]:
    found = await read_whole(world, SESSION_STATES, SessionState)
    return [one for one in found if one.session_id == "s"]


async def completed(mine: Sessions, text: str) -> None:
    assert (await mine.turn(text)).status == "completed"


async def test_a_session_that_is_used_does_not_lose_its_state_to_retention(
    world: MemoryLanes,
) -> None:
    old = await created(world, 29 * DAY_MS)
    async with sessions(world) as mine:
        await completed(mine, "say: one")
        await mine.turn("say: elsewhere", session_id="other")
        await completed(mine, "say: two")
        answer = await mine.tell("touch")
        assert answer.session is not None
        assert (answer.session.revision, answer.session.metadata) == (3, {"customer": "7"})
    _, kept, _ = await states_of(world)
    assert kept.at_ms - old.at_ms >= 29 * DAY_MS
    same = {"at_ms": old.at_ms, "revision": 1}
    assert kept.model_copy(update=same) == old
    assert await read_whole(world, SESSION_EVENTS, SessionChanged) == []  # turns are no events


async def test_a_state_that_is_fresh_is_not_written_again(world: MemoryLanes) -> None:
    await created(world, HOUR_MS // 2)
    async with sessions(world) as mine:
        await completed(mine, "say: one")
    assert [one.revision for one in await states_of(world)] == [1]


async def test_what_is_closed_is_not_kept_by_whoever_asks(world: MemoryLanes) -> None:
    old = await created(world, 0)
    async with upstream(world) as program:
        gone = old.model_copy(
            update={"state": "closed", "revision": 2, "at_ms": old.at_ms - 2 * HOUR_MS}
        )
        await write_event(world, program, SESSION_STATES, gone)
    async with sessions(world) as mine:
        assert (await mine.turn("say: one")).status == "rejected"
    assert [one.revision for one in await states_of(world)] == [1, 2]
