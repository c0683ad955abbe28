"""Sessions by a whole lane: commands, what requests meet, and what a crash leaves."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from millstream.agents.templates.session_rules import SessionRules
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.events import AgentResult, CheckpointSaved, SessionUpdated
from millstream.schemas.sessions.commands import SessionTtl
from millstream.schemas.sessions.states import SessionAnswered, SessionChanged, SessionState
from millstream.schemas.topics import (
    CHECKPOINTS,
    RESULTS,
    SESSION_ANSWERS,
    SESSION_COMMANDS,
    SESSION_EVENTS,
    SESSION_STATES,
    SESSIONS,
)
from tests.harness.memory_lanes import (
    MemoryLanes,
    Upstream,
    ask,
    open_keys,
    read_topic,
    read_whole,
    running_lanes,
    upstream,
)

_numbers = itertools.count(1)


class Sessions:
    """A user's view of a deployment: gives commands and asks, and waits for what comes of it."""

    def __init__(self, world: MemoryLanes, program: Upstream) -> None:
        self.world = world
        self.program = program
        self._answers = 0

    async def give(self, operation: str, session: str | None = "s", **more: Any) -> str:
        """Publish a command of ada's; gives its id."""
        command_id = more.pop("command_id", f"c{next(_numbers)}")
        value = {"user_id": "ada", "operation": operation, "command_id": command_id, **more}
        if session is not None:
            value["session_id"] = session
        topic = self.world.topic(SESSION_COMMANDS)
        await self.program.publish(value, key=b"ada", topic=topic)
        return command_id

    async def answered(self, command_id: str, *, times: int = 1) -> SessionAnswered:
        """Wait for the answer to a command."""
        count = 1
        while True:
            answers = await read_topic(self.world, SESSION_ANSWERS, SessionAnswered, count=count)
            found = [one for one in answers if one.command_id == command_id]
            if len(found) >= times:
                return found[times - 1]
            count = len(answers) + 1

    async def tell(self, operation: str, session: str | None = "s", **more: Any) -> SessionAnswered:
        """Give a command and wait for its answer."""
        return await self.answered(await self.give(operation, session, **more))

    async def ask(self, text: str, **more: Any) -> str:
        """Ask in session `s`; gives the request's id."""
        request_id = f"r{next(_numbers)}"
        await ask(self.program, text, **{"request_id": request_id, "session_id": "s", **more})
        return request_id

    async def result(self, request_id: str) -> AgentResult:
        """Wait for a request's result."""
        count = 1
        while True:
            results = await read_topic(self.world, RESULTS, AgentResult, count=count)
            found = [one for one in results if one.request_id == request_id]
            if found:
                return found[0]
            count = len(results) + 1

    async def turn(self, text: str, **more: Any) -> AgentResult:
        """Ask, and wait for the result."""
        return await self.result(await self.ask(text, **more))


STRICT = AgentTemplate(name="strict", session=SessionRules(create_first=True))
SHORT = AgentTemplate(name="short", session=SessionRules(ttl=SessionTtl(total_s=60)))


@asynccontextmanager
async def sessions(world: MemoryLanes) -> AsyncIterator[Sessions]:
    templates = (*BUILT_IN_TEMPLATES, STRICT, SHORT)
    async with running_lanes(world, templates=templates), upstream(world) as program:
        yield Sessions(world, program)


def code(answer: SessionAnswered | AgentResult) -> str | None:
    reason = answer.refused if isinstance(answer, SessionAnswered) else answer.reason
    return None if reason is None else reason.code


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
        assert (refused.status, code(refused)) == ("rejected", "session_closed")
        await mine.tell("reopen")
        assert (await mine.turn("say: three")).status == "completed"
        await mine.tell("touch")
        gone = await mine.tell("delete")
        assert gone.session is not None
        assert (gone.session.state, gone.session.metadata) == ("deleted", {})
        assert code(await mine.turn("say: four")) == "session_deleted"
        assert code(await mine.tell("create")) == "session_deleted"
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
        assert code(await mine.tell(operation, **more)) == refused


async def test_a_command_that_comes_again_has_no_second_effect(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        for _ in range(2):
            await mine.give("create", command_id="one")
        assert code(await mine.answered("one")) is None
        assert code(await mine.answered("one", times=2)) is None
        assert code(await mine.tell("create")) == "session_exists"
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
        assert code(await mine.tell("create")) == "session_exists"
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
            assert (result.status, code(result)) == ("rejected", "session_closed")


async def test_close_with_drain_lets_run_what_waits_and_nothing_that_comes_later(
    world: MemoryLanes,
) -> None:
    async with sessions(world) as mine:
        asked = [await mine.ask("slow: 0.1; say: 0"), await mine.ask("say: 1")]
        await mine.tell("close", drain=True)
        late = await mine.turn("say: late")
        assert [(await mine.result(one)).output for one in asked] == ["0", "1"]
        assert code(late) == "session_closed"


async def test_delete_cancels_what_runs_and_what_waits_and_leaves_no_head(
    world: MemoryLanes,
) -> None:
    async with sessions(world) as mine:
        await mine.turn("say: one")
        asked = [await mine.ask("hang"), await mine.ask("say: 1")]
        await mine.tell("delete")
        results = [await mine.result(one) for one in asked]
        assert [(one.status, code(one)) for one in results] == [
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
        assert code(await mine.result(waiting)) == "session_closed"
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
        assert code(await mine.tell("name_checkpoint", turn=2, name="begin")) == "name_taken"
        assert code(await mine.tell("restore", turn=9)) == "checkpoint_unknown"
        assert code(await mine.tell("restore", name="end")) == "checkpoint_unknown"
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


async def test_a_request_says_which_turn_it_believes_newest(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        assert (await mine.turn("say: one", expected_turn=0)).status == "completed"
        both = [await mine.ask("slow: 0.1; say: two", expected_turn=1) for _ in range(2)]
        results = [await mine.result(one) for one in both]
        assert [(one.status, code(one)) for one in results] == [
            ("completed", None),
            ("rejected", "session_moved_on"),
        ]


async def test_a_session_expires_when_it_was_not_used_for_so_long(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        await mine.tell("create", ttl={"idle_s": 1})
        await mine.turn("slow: 1.5; say: one")  # never while a run is on
        (_, expired) = await read_topic(world, SESSION_EVENTS, SessionChanged, count=2)
        (head,) = await read_whole(world, SESSIONS, SessionUpdated)
        assert expired.change == "expired"
        assert 1000 <= expired.at_ms - head.at_ms < 4500
        assert code(await mine.turn("say: two")) == "session_expired"
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
        assert code(again) == "session_deleted"
        assert (await mine.turn("say: y", user_id="ben", session_id="s0")).status == "completed"


async def test_a_template_may_ask_for_sessions_that_were_created(world: MemoryLanes) -> None:
    async with sessions(world) as mine:
        refused = await mine.turn("say: one", template="strict")
        assert (refused.status, code(refused)) == ("rejected", "session_unknown")
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
