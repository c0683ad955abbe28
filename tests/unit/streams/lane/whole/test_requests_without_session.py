"""A request that names no session leaves none behind: nobody would go on with it."""

from __future__ import annotations

import pytest

from millstream.middleware.policy import Policy
from millstream.schemas.events import AgentResult, CheckpointSaved, SessionUpdated
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import CHECKPOINTS, SESSION_STATES, SESSIONS
from tests.harness.lane_sessions import Sessions
from tests.harness.memory_lanes import MemoryLanes, ask, read_whole, running_lanes, upstream


@pytest.fixture(params=[(), ("executor",)], ids=["fused", "staged"])
def either(request: pytest.FixtureRequest, world: MemoryLanes) -> MemoryLanes:
    return world.changed(chain_cuts=request.param)


async def asked(mine: Sessions, request_id: str, session_id: str | None) -> AgentResult:
    """Ask under an id that is known beforehand; gives the result."""
    await ask(mine.program, "say: one", request_id=request_id, session_id=session_id)
    return await mine.result(request_id)


async def left(world: MemoryLanes) -> tuple[list[str], list[str], list[str]]:
    """Give the sessions of which heads, states and checkpoints stand on the log."""
    heads = await read_whole(world, SESSIONS, SessionUpdated)
    states = await read_whole(world, SESSION_STATES, SessionState)
    saved = await read_whole(world, CHECKPOINTS, CheckpointSaved)
    return (
        [one.session_id for one in heads],
        [one.session_id for one in states],
        [one.session_id for one in saved],
    )


async def test_it_leaves_no_head_no_state_and_no_checkpoint(either: MemoryLanes) -> None:
    policy = Policy.from_yaml("defaults: {sessions: {ttl: {idle_s: 90}}}", "p")
    async with running_lanes(either, policy), upstream(either) as program:
        mine = Sessions(either, program)
        alone = await asked(mine, "r-alone", None)
        named = await mine.turn("say: two", session_id="s")
    assert (alone.status, alone.session_id, alone.turn) == ("completed", "r-alone", None)
    assert named.turn == 1
    assert await left(either) == (["s"], ["s"], ["s"])


async def test_a_session_that_is_named_as_its_request_is_kept(either: MemoryLanes) -> None:
    async with running_lanes(either), upstream(either) as program:
        mine = Sessions(either, program)
        turns = [
            (await asked(mine, "r-own", "r-own")).turn,
            (await mine.turn("say: two", session_id="r-own")).turn,
        ]
    assert turns == [1, 2]


async def test_whoever_names_the_requests_id_later_begins_a_session(either: MemoryLanes) -> None:
    async with running_lanes(either), upstream(either) as program:
        mine = Sessions(either, program)
        await asked(mine, "r-alone", None)
        later = await mine.turn("say: two", session_id="r-alone", expected_turn=0)
    assert (later.status, later.turn) == ("completed", 1)


async def test_one_that_finds_a_session_of_its_id_is_that_sessions_next_turn(
    either: MemoryLanes,
) -> None:
    async with running_lanes(either), upstream(either) as program:
        mine = Sessions(either, program)
        await mine.tell("create", "r-alone")
        alone = await asked(mine, "r-alone", None)
    assert alone.turn == 1
    assert (await left(either))[0] == ["r-alone"]
