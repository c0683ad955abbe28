"""Sessions that a lane has let go of: looked up on the log, they are what they were."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.agents.executor import wall_clock_ms
from millstream.schemas.events import CheckpointSaved, SessionUpdated
from millstream.schemas.sessions.states import SessionChanged, SessionState
from millstream.schemas.topics import (
    CHECKPOINTS,
    SESSION_COMMANDS,
    SESSION_EVENTS,
    SESSION_STATES,
    SESSIONS,
)
from millstream.streams.wire.codec import decode
from tests.harness.lane_sessions import Sessions, code_of, sessions
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    open_keys,
    read_topic,
    read_whole,
    upstream,
)


@pytest.fixture
def world() -> MemoryLanes:
    return MemoryLanes().changed(sessions_in_memory=1, snapshot_records=10)


async def push_out(mine: Sessions) -> None:
    """Use other sessions of the partition, so that `s` is in memory no more."""
    for other in ("other", "another"):
        await mine.turn("say: x", session_id=other)
        await mine.tell("update", other, metadata={"use": "anew"})


async def test_a_conversation_goes_on(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        for turn in range(1, 4):
            answer = await mine.turn(f"say: {turn}", expected_turn=turn - 1)
            assert answer.turn == turn
            assert (answer.status, answer.output) == ("completed", str(turn))
            await push_out(mine)
        moved_on = await mine.turn("say: 4", expected_turn=2)
        assert (code_of(moved_on), moved_on.turn) == ("session_moved_on", None)
        heads = await read_whole(world, SESSIONS, SessionUpdated)
        assert [one.turn for one in heads if one.session_id == "s"] == [1, 2, 3]
        saved = await read_whole(world, CHECKPOINTS, CheckpointSaved)
        sizes = [len(one.data) for one in saved if one.session_id == "s"]
        assert sizes == sorted(sizes)
        assert len(set(sizes)) == 3  # each holds the turns before it


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(
    ("operation", "refused"), [("close", "session_closed"), ("delete", "session_deleted")]
)
async def test_what_ended_stays_ended(
    world: MemoryLanes, operation: str, refused: str, *, restarted: bool
) -> None:
    async with sessions(world) as mine:
        await mine.turn("say: one")
        await mine.tell(operation)
        await push_out(mine)
        if not restarted:
            assert code_of(await mine.turn("say: two")) == refused
            assert code_of(await mine.tell("touch")) == refused
    if restarted:
        async with sessions(world) as mine:
            assert code_of(await mine.turn("say: two")) == refused
            assert code_of(await mine.tell("touch")) == refused
    heads = await open_keys(world, SESSIONS)
    assert len(heads) == (3 if operation == "close" else 2)


async def test_a_closed_one_is_opened_again_with_what_was_said_of_it(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        await mine.tell("create", metadata={"customer": "7"})
        await mine.turn("say: one")
        await mine.tell("name_checkpoint", turn=1, name="good")
        await mine.tell("close")
        await push_out(mine)
        opened = await mine.tell("reopen")
        assert opened.session is not None
        assert opened.session.metadata == {"customer": "7"}
        assert (opened.session.revision, opened.turn) == (4, 1)
        await mine.turn("say: two")
        await push_out(mine)
        restored = await mine.tell("restore", name="good")
        assert (restored.refused, restored.turn) == (None, 3)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("ttl", [{"idle_s": 1}, {"total_s": 1}])
async def test_one_whose_time_is_over_expires(
    world: MemoryLanes, ttl: dict[str, Any], *, restarted: bool
) -> None:
    async with sessions(world) as mine:
        await mine.tell("create", ttl=ttl)
        await mine.turn("say: one")
        await push_out(mine)
        if not restarted:
            await expired(mine)
    if restarted:
        async with sessions(world) as mine:
            await expired(mine)


async def expired(mine: Sessions) -> None:
    """Wait until `s` has expired by itself, and no sooner than it may."""
    changes = await read_topic(mine.world, SESSION_EVENTS, SessionChanged, count=4)
    change = next(one for one in changes if one.session_id == "s" and one.change == "expired")
    created = next(one for one in changes if one.session_id == "s" and one.change == "created")
    assert change.at_ms - created.at_ms >= 1000
    assert code_of(await mine.turn("say: two")) == "session_expired"


async def test_many_that_are_over_at_once_expire_within_two_seconds(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        for number in range(400):
            given = await mine.give("create", f"s{number}", ttl={"total_s": 3})
        await mine.answered(given)
        world.broker.latency_s = 0.002
        changes = await read_topic(world, SESSION_EVENTS, SessionChanged, count=800)
    created = {one.session_id: one.at_ms for one in changes if one.change == "created"}
    late = [one.at_ms - created[one.session_id] for one in changes if one.change == "expired"]
    assert len(late) == 400
    assert all(3000 <= one < 5000 for one in late)


async def test_a_request_that_finds_it_over_time_ends_it_before_what_comes_next(
    world: MemoryLanes,
) -> None:
    async with sessions(world) as mine:
        await mine.tell("create", ttl={"total_s": 1})
        await push_out(mine)
        (state,) = [
            one
            for one in await read_whole(world, SESSION_STATES, SessionState)
            if one.session_id == "s"
        ]
        while wall_clock_ms() < state.created_at_ms + 1001:
            await push_out(mine)
        late = await mine.ask("say: late")
        touched = await mine.give("touch")
        assert code_of(await mine.result(late)) == "session_expired"
        assert code_of(await mine.answered(touched)) == "session_expired"


@pytest.mark.parametrize("is_idle", [False, True])
async def test_a_command_that_finds_it_over_time_does_not_revive_it(
    world: MemoryLanes, *, is_idle: bool
) -> None:
    async with sessions(world) as mine:
        made = await mine.tell("create", ttl={"idle_s": 1})
        assert made.session is not None
        while wall_clock_ms() < made.session.created_at_ms + 1001:
            await mine.turn("say: x", session_id="other")
        if is_idle:
            await push_out(mine)
        assert code_of(await mine.tell("touch")) == "session_expired"
        assert (await mine.tell("reopen")).refused is None


async def test_all_of_a_user_s_end_whether_in_memory_or_not(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        for number in range(120):
            given = await mine.give("create", f"made-{number}")
        await mine.answered(given)
        for number in range(3):
            await mine.turn("say: x", session_id=f"talk-{number}")
        await mine.turn("say: x", session_id="theirs", user_id="ben")
        closed = await mine.tell("close", None)
        assert closed.sessions == 123
        assert (await mine.tell("close", None)).sessions == 0
        deleted = await mine.tell("delete", None)
        assert deleted.sessions == 123
        assert code_of(await mine.turn("say: x", session_id="talk-1")) == "session_deleted"
        answer = await mine.turn("say: x", session_id="theirs", user_id="ben")
        assert answer.status == "completed"
    assert len(await open_keys(world, SESSIONS)) == 1


@pytest.mark.parametrize("in_memory", [1000, 1])
async def test_a_touch_that_came_in_time_and_is_not_decided_yet_counts(in_memory: int) -> None:
    world = MemoryLanes().changed(sessions_in_memory=in_memory)
    async with lane_services(world) as services, upstream(world) as program:
        mine = Sessions(world, program)
        async with one_lane(world, services, None) as owner:

            async def command(operation: str, session: str, after_ms: int, **more: Any) -> Any:
                value = {"user_id": "ada", "session_id": session, "operation": operation, **more}
                value["command_id"] = f"{operation}-{session}-{after_ms}"
                topic = world.topic(SESSION_COMMANDS)
                sent = await program.publish(value, key=b"ada", topic=topic)
                return sent._replace(timestamp=sent.timestamp + after_ms), value

            owner.serve(*await command("create", "s", 0, ttl={"idle_s": 100}))
            await mine.answered("create-s-0")
            owner.serve(*await command("create", "other", 0))
            await mine.answered("create-other-0")
            touch = await command("touch", "s", 90_000)
            sent, value = await ask(program, "say: x", request_id="r", session_id="s")
            owner.serve(*touch)
            owner.serve(sent._replace(timestamp=sent.timestamp + 110_000), value)
            assert code_of(await mine.answered("touch-s-90000")) is None
            assert (await mine.result("r")).status == "completed"
            # What comes after it, and finds it over, is turned away all the same.
            late = [await ask(program, "say: x", request_id=f"l{n}", session_id="s") for n in "12"]
            for sent, value in late:
                owner.serve(sent._replace(timestamp=sent.timestamp + 400_000), value)
            for name in ("l1", "l2"):
                assert code_of(await mine.result(name)) == "session_expired"


async def test_what_retention_has_removed_is_forgotten_and_begins_anew(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        await mine.tell("create", metadata={"a": "b"}, ttl={"idle_s": 1})
        await mine.turn("say: one")
        await push_out(mine)
        for spec in (SESSIONS, SESSION_STATES):
            for where in world.places(spec):
                world.broker.delete_before(where, world.broker.partition(where).high_watermark)
        assert code_of(await mine.tell("touch")) == "session_unknown"
        assert code_of(await mine.tell("restore", turn=1)) == "session_unknown"
        anew = await mine.turn("say: two", expected_turn=0)
        assert (anew.status, anew.output) == ("completed", "two")
        await mine.tell("close")
        await push_out(mine)
        assert code_of(await mine.turn("say: three")) == "session_closed"
    async with sessions(world) as mine:
        assert code_of(await mine.turn("say: three")) == "session_closed"


async def test_a_log_of_sessions_that_was_made_anew_is_what_counts(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        for turn in range(5):
            await mine.turn(f"say: {turn}")
            await push_out(mine)
    for spec in (SESSIONS, SESSION_STATES):
        world.broker.delete_topic(world.topic(spec))
    async with sessions(world) as mine:
        assert code_of(await mine.tell("touch")) == "session_unknown"
        await push_out(mine)
        assert (await mine.turn("say: on", expected_turn=0)).status == "completed"
        await push_out(mine)
        assert (await mine.tell("touch")).turn == 1


async def test_a_session_goes_on_whose_older_checkpoints_are_gone(world: MemoryLanes) -> None:
    # langchain-ai/langchain-mongodb#151: what becomes of a thread of which a part has expired.
    async with sessions(world) as mine:
        for turn in range(1, 4):
            await mine.turn(f"say: {turn}")
        await mine.tell("name_checkpoint", turn=1, name="first")
        await push_out(mine)
        for where in world.places(CHECKPOINTS):
            saved = [
                one
                for one in world.broker.records(where)
                if decode(one, CheckpointSaved).session_id == "s"
            ]
            if saved:
                world.broker.delete_before(where, saved[-1].offset)
        for meant in ({"turn": 1}, {"turn": 2}, {"name": "first"}):
            assert code_of(await mine.tell("restore", **meant)) == "checkpoint_unknown"
        await push_out(mine)
        assert (await mine.turn("say: on", expected_turn=3)).status == "completed"
        restored = await mine.tell("restore", turn=3)
        assert (restored.refused, restored.turn) == (None, 5)
