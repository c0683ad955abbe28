"""Sessions by a whole lane: commands, what requests meet, and what a crash leaves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from millstream.agents.executor import wall_clock_ms
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import CheckpointSaved, SessionUpdated
from millstream.schemas.sessions.states import SessionChanged, SessionState
from millstream.schemas.topics import (
    CHECKPOINTS,
    DEAD_LETTERS,
    SESSION_ANSWERS,
    SESSION_EVENTS,
    SESSION_STATES,
    SESSIONS,
)
from millstream.streams.broker.memory.broker import MemoryBroker
from tests.harness.lane_sessions import code_of, sessions
from tests.harness.memory_lanes import (
    MemoryLanes,
    open_keys,
    read_topic,
    read_whole,
)


@pytest.fixture(params=[1000, 1], ids=["all-in-memory", "one-in-memory"])
def world(request: pytest.FixtureRequest) -> MemoryLanes:
    return MemoryLanes().changed(sessions_in_memory=request.param)


async def test_a_session_is_created_used_closed_opened_again_and_deleted(
    world: MemoryLanes,
) -> None:
    async with sessions(world) as mine:
        made = await mine.tell("create", metadata={"customer": "7"}, ttl={"idle_s": 60}, by="bob")
        assert made.session is not None
        assert (made.session.state, made.session.metadata) == ("open", {"customer": "7"})
        assert (await mine.turn("say: one")).status == "completed"
        closed = await mine.tell("close", why="done")
        assert closed.session is not None
        assert (closed.session.state, closed.turn) == ("closed", 1)
        refused = await mine.turn("say: two")
        assert (refused.status, code_of(refused)) == ("rejected", "session_closed")
        await mine.tell("reopen")
        assert (await mine.turn("say: three")).status == "completed"
        await mine.tell("touch")
        gone = await mine.tell("delete")
        assert gone.session is not None
        assert (gone.session.state, gone.session.metadata) == ("deleted", {})
        assert code_of(await mine.turn("say: four")) == "session_deleted"
        assert code_of(await mine.tell("create")) == "session_deleted"
    events = await read_whole(world, SESSION_EVENTS, SessionChanged)
    assert [(one.change, one.by, one.why) for one in events] == [
        ("created", "bob", None),
        ("closed", None, "done"),
        ("reopened", None, None),
        ("deleted", None, None),
    ]
    assert await open_keys(world, SESSIONS) == set()


@pytest.mark.parametrize(
    ("operation", "more", "refused"),
    [
        ("touch", {}, "session_unknown"),
        ("close", {}, "session_unknown"),
        ("delete", {}, "session_unknown"),
        ("restore", {"turn": 1}, "session_unknown"),
        ("create", {}, None),
    ],
)
async def test_a_session_that_was_never_begun(
    world: MemoryLanes, operation: str, more: dict[str, Any], refused: str | None
) -> None:
    async with sessions(world) as mine:
        assert code_of(await mine.tell(operation, **more)) == refused


async def test_a_command_that_comes_again_has_no_second_effect(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        for _ in range(2):
            await mine.give("create", command_id="one")
        assert code_of(await mine.answered("one")) is None
        assert code_of(await mine.answered("one", times=2)) is None
        assert code_of(await mine.tell("create")) == "session_exists"
    # Also to the next owner.
    async with sessions(world) as mine:
        await mine.give("create", command_id="one")
        again = await mine.answered("one", times=3)
        assert again.refused is None
        assert again.session is not None
    assert len(await read_whole(world, SESSION_STATES, SessionState)) == 1


async def test_a_session_that_began_with_a_request_exists(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        await mine.turn("say: one")
        assert code_of(await mine.tell("create")) == "session_exists"
        named = await mine.tell("update", metadata={"a": "b"})
        assert named.session is not None
        (head,) = await read_whole(world, SESSIONS, SessionUpdated)
        assert named.session.created_at_ms == head.created_at_ms
        assert (head.template, head.checkpoint_bytes) == ("chat_agent", head.checkpoint_bytes)


async def test_close_lets_the_run_that_is_on_end_and_rejects_what_waits(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        first = await mine.ask("slow: 0.3; say: done")
        waiting = [await mine.ask(f"say: {number}") for number in range(3)]
        await mine.tell("close")
        assert (await mine.result(first)).output == "done"
        for request_id in waiting:
            result = await mine.result(request_id)
            assert (result.status, code_of(result)) == ("rejected", "session_closed")


async def test_close_with_drain_lets_run_what_waits_and_nothing_that_comes_later(
    world: MemoryLanes,
) -> None:
    async with sessions(world) as mine:
        asked = [await mine.ask("slow: 0.1; say: 0"), await mine.ask("say: 1")]
        await mine.tell("close", drain=True)
        late = await mine.turn("say: late")
        assert [(await mine.result(one)).output for one in asked] == ["0", "1"]
        assert code_of(late) == "session_closed"


@pytest.mark.parametrize("session", ["s", None], ids=["one", "all"])
async def test_close_without_drain_rejects_what_still_waits_of_one_that_drains(
    world: MemoryLanes, session: str | None
) -> None:
    # istio/ztunnel#230: whoever asks a second time, and harder, is not to be waited out.
    async with sessions(world) as mine:
        first = await mine.ask("slow: 0.3; say: done")
        waiting = [await mine.ask(f"say: {number}") for number in range(3)]
        await mine.tell("close", session, drain=True)
        again = await mine.tell("close", session, drain=True)
        assert (again.refused, again.sessions) == (None, None if session else 0)
        harder = await mine.tell("close", session)
        assert (harder.refused, harder.sessions) == (None, None if session else 1)
        assert (await mine.result(first)).output == "done"
        assert {code_of(await mine.result(one)) for one in waiting} == {"session_closed"}
        # It is as closed as can be.
        assert (await mine.tell("close", session)).sessions == (None if session else 0)
    async with sessions(world) as mine:
        assert code_of(await mine.turn("say: late")) == "session_closed"


async def test_delete_cancels_what_runs_and_what_waits_and_leaves_no_head(
    world: MemoryLanes,
) -> None:
    async with sessions(world) as mine:
        await mine.turn("say: one")
        asked = [await mine.ask("hang"), await mine.ask("say: 1")]
        await mine.tell("delete")
        results = [await mine.result(one) for one in asked]
        assert [(one.status, code_of(one)) for one in results] == [
            ("cancelled", "session_deleted"),
            ("cancelled", "session_deleted"),
        ]
    assert await open_keys(world, SESSIONS) == set()


async def test_what_waited_when_a_session_was_closed_is_rejected_by_the_next_owner(
    world: MemoryLanes,
) -> None:
    async with sessions(world) as mine:
        first = await mine.ask("hang")
        waiting = await mine.ask("say: 1")
        await mine.tell("close")
        assert code_of(await mine.result(waiting)) == "session_closed"
        await mine.tell("reopen")
        assert first
    # The run that was on goes on, and the session is open.
    async with sessions(world) as mine:
        assert (await mine.tell("touch")).refused is None
        late = await mine.ask("say: late")
        await mine.give("delete")
        assert (await mine.result(first)).status == "cancelled"
        assert (await mine.result(late)).status in {"cancelled", "rejected"}


async def test_a_session_goes_back_to_an_earlier_turn_and_on_from_there(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        for text in ("say: one", "say: two", "say: three"):
            await mine.turn(text)
        await mine.tell("name_checkpoint", turn=1, name="begin")
        assert code_of(await mine.tell("name_checkpoint", turn=2, name="begin")) == "name_taken"
        assert code_of(await mine.tell("restore", turn=9)) == "checkpoint_unknown"
        assert code_of(await mine.tell("restore", name="end")) == "checkpoint_unknown"
        back = await mine.tell("restore", turn=2)
        assert (back.refused, back.turn) == (None, 4)
        await mine.turn("say: five")
        assert (await mine.tell("restore", name="begin")).turn == 6
        await mine.turn("say: seven")
    saved = await read_whole(world, CHECKPOINTS, CheckpointSaved)
    ids = {one.turn: one.checkpoint_id for one in saved}
    assert [one.turn for one in saved] == [1, 2, 3, 5, 7]
    parents = {one.turn: one.parent_id for one in saved}
    assert (parents[5], parents[7]) == (ids[2], ids[1])
    events = await read_whole(world, SESSION_EVENTS, SessionChanged)
    assert [one.restored_turn for one in events if one.change == "restored"] == [2, 1]


async def test_restores_that_follow_each_other_closely_each_make_a_turn(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        for text in ("say: one", "say: two"):
            await mine.turn(text)
        given = [await mine.give("restore", turn=1 + number % 2) for number in range(40)]
        assert [(await mine.answered(one)).turn for one in given] == list(range(3, 43))
        assert (await mine.turn("say: last", expected_turn=42)).status == "completed"
    heads = [one.turn for one in await read_whole(world, SESSIONS, SessionUpdated)]
    assert heads == list(range(1, 44))


async def test_a_request_says_which_turn_it_believes_newest(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        assert (await mine.turn("say: one", expected_turn=0)).status == "completed"
        both = [await mine.ask("slow: 0.1; say: two", expected_turn=1) for _ in range(2)]
        results = [await mine.result(one) for one in both]
        assert [(one.status, code_of(one)) for one in results] == [
            ("completed", None),
            ("rejected", "session_moved_on"),
        ]


async def test_a_session_that_an_update_finds_too_old_expires_without_being_used(
    world: MemoryLanes,
) -> None:
    async with sessions(world) as mine:
        await mine.tell("create", "limited", ttl={"total_s": 3600})
        await mine.tell("create", "unlimited")
        await mine.tell("create", "first", ttl={"total_s": 1})
        await read_topic(world, SESSION_EVENTS, SessionChanged, count=4)  # it has expired
        for name in ("limited", "unlimited"):
            await mine.tell("update", name, ttl={"total_s": 1})
        events = await read_topic(world, SESSION_EVENTS, SessionChanged, count=8)
        expired = [one.session_id for one in events if one.change == "expired"]
        assert sorted(expired) == ["first", "limited", "unlimited"]


async def test_a_session_expires_when_it_was_not_used_for_so_long(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        await mine.tell("create", ttl={"idle_s": 1})
        await mine.turn("slow: 1.5; say: one")  # never while a run is on
        (_, expired) = await read_topic(world, SESSION_EVENTS, SessionChanged, count=2)
        (head,) = await read_whole(world, SESSIONS, SessionUpdated)
        assert expired.change == "expired"
        assert 1000 <= expired.at_ms - head.at_ms < 4500
        assert code_of(await mine.turn("say: two")) == "session_expired"
        await mine.tell("reopen")
        assert (await mine.turn("say: three")).status == "completed"


async def test_all_sessions_of_a_user_are_deleted_and_nobody_elses(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        for number in range(5):
            await mine.turn("say: x", session_id=f"s{number}")
        await mine.tell("create", "made")
        await mine.turn("say: x", user_id="ben", session_id="s0")
        answer = await mine.tell("delete", None)
        assert answer.sessions == 6
        assert (await mine.tell("delete", None)).sessions == 0
        again = await mine.turn("say: y", session_id="s0")
        assert code_of(again) == "session_deleted"
        assert (await mine.turn("say: y", user_id="ben", session_id="s0")).status == "completed"


@pytest.mark.parametrize(
    ("operation", "takes_s", "first", "second"),
    [  # a run that is cut off is on however long the command takes to come
        ("delete", 60, ("cancelled", "session_deleted"), ("cancelled", "session_deleted")),
        ("close", 1, ("completed", None), ("rejected", "session_closed")),
    ],
)
async def test_all_sessions_of_a_user_are_also_those_whose_first_run_is_on(
    world: MemoryLanes,
    operation: str,
    takes_s: int,
    first: tuple[str, str | None],
    second: tuple[str, str | None],
) -> None:
    # langchain-ai/langgraph#7206: a run that was on brought back what was deleted.
    async with sessions(world) as mine:
        await mine.turn("say: x", session_id="old")
        asked = [await mine.ask(f"slow: {takes_s}; say: one"), await mine.ask("say: two")]
        assert (await mine.tell(operation, None)).sessions == 2
        results = [await mine.result(one) for one in asked]
        assert [(one.status, code_of(one)) for one in results] == [first, second]
        assert (await mine.turn("say: three")).status == "rejected"
        assert (await mine.tell(operation, None)).sessions == 0
    heads = await open_keys(world, SESSIONS)
    assert len(heads) == (0 if operation == "delete" else 2)


async def test_a_template_may_ask_for_sessions_that_were_created(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        refused = await mine.turn("say: one", template="strict")
        assert (refused.status, code_of(refused)) == ("rejected", "session_unknown")
        assert "create 's', or name another" in str(refused.reason)
        unnamed = await mine.turn("say: one", template="strict", session_id=None)
        assert "names none: create one" in str(unnamed.reason)
        await mine.tell("create")
        assert (await mine.turn("say: one", template="strict")).status == "completed"


async def test_a_session_that_begins_with_a_request_lives_as_long_as_its_template_says(
    world: MemoryLanes,
) -> None:
    async with sessions(world) as mine:
        for number in range(2):
            await mine.turn(f"say: {number}", template="short")
        await mine.turn("say: x", session_id="long")
    (state,) = await read_whole(world, SESSION_STATES, SessionState)
    assert (state.session_id, state.ttl.total_s) == ("s", 60)
    (created,) = await read_whole(world, SESSION_EVENTS, SessionChanged)
    assert (created.change, created.command_id) == ("created", None)


async def test_head_and_state_say_alike_when_a_session_began(world: MemoryLanes) -> None:
    # QwenLM/qwen-code#9419: a place that changes between two pages shows a session twice.
    async with sessions(world) as mine:
        await mine.turn("slow: 0.05; say: x", template="short", session_id="a")
        await mine.tell("create", "b")
        await mine.turn("say: x", session_id="b")
        running = await mine.ask("slow: 0.2; say: x", session_id="c")
        await mine.tell("update", "c", metadata={"a": "b"})
        await mine.result(running)
        await mine.turn("say: x", session_id="c")
        await mine.turn("say: x", session_id="d")
        await mine.tell("touch", "d")
    states = await read_whole(world, SESSION_STATES, SessionState)
    heads = await read_whole(world, SESSIONS, SessionUpdated)
    created = {(one.session_id, one.created_at_ms) for one in (*states, *heads)}
    assert sorted(name for name, _ in created) == ["a", "b", "c", "d"]


@pytest.mark.promise("P7")
@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ({"k" * 990_000: "x"}, "record_too_large"),
        ({"k" * 940_000: "x"}, "wrong_shape"),
        ({"": "x"}, "wrong_shape"),
        ({"\ud800": "x"}, "not_json"),
        ({"x": "\ud800"}, "not_json"),
    ],
    ids=["too-long", "long", "empty", "half", "half-value"],
)
async def test_metadata_that_no_record_can_hold_stops_nothing(
    world: MemoryLanes, metadata: dict[str, str], code: str
) -> None:
    async with sessions(world) as mine:
        for operation in ("create", "update"):
            await mine.give(operation, metadata=metadata)
        assert code_of(await mine.tell("touch")) == "session_unknown"
        assert (await mine.turn("say: x")).status == "completed"
    letters = await read_whole(world, DEAD_LETTERS, DeadLetter)
    assert [one.reason.code for one in letters] == [code] * 2


@pytest.mark.promise("P7")
async def test_a_command_whose_outcome_is_never_written_is_given_up(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        refusing = asyncio.Event()
        refusing.set()
        world.broker.refuse(world.topic(SESSION_ANSWERS), refusing.is_set)
        await mine.give("create")
        (letter,) = await read_topic(world, DEAD_LETTERS, DeadLetter, count=1)
        refusing.clear()
        assert letter.reason.code == "unserviceable"
        assert code_of(await mine.tell("touch")) == "session_unknown"


@pytest.mark.parametrize("apart_ms", [-60_000, 60_000])
async def test_a_turn_is_found_though_worker_and_broker_disagree_on_the_time(
    world: MemoryLanes, apart_ms: int
) -> None:
    broker = MemoryBroker(world.settings, lambda: wall_clock_ms() + apart_ms)
    async with sessions(replace(world, broker=broker)) as mine:
        for turn in range(1, 4):
            await mine.turn(f"say: {turn}")
        assert (await mine.tell("restore", turn=1)).refused is None
        assert code_of(await mine.tell("restore", turn=99)) == "checkpoint_unknown"
