"""What a `SessionManager` does over any log and view; a subclass gives both as the fixture `world`.

A world lives for a whole class: each test has a user of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Protocol

import pytest

from millstream.agents.sessions.manager import SessionFilter, SessionStore
from millstream.schemas.events import AgentRequest, AgentResult
from millstream.schemas.sessions.commands import SessionOperation, SessionTtl
from millstream.schemas.sessions.errors import (
    CheckpointUnknown,
    CommandIdReused,
    NameTaken,
    SessionBusy,
    SessionClosed,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionInputInvalid,
    SessionUnknown,
)
from millstream.schemas.sessions.states import SessionAnswered, SessionChanged
from millstream.schemas.sessions.transitions import TRANSITIONS, Before
from millstream.schemas.topics import RESULTS, SESSION_ANSWERS, SESSION_COMMANDS, SESSION_EVENTS
from millstream.streams.bus.api import Delivery, EventBus, EventFilter
from millstream.streams.sessions.manager import SessionManager
from millstream.streams.sessions.outcomes import SessionOutcome

_numbers = itertools.count(1)

HOSTILE = ["a:b", "a}b{", "{x}", "*", "%2F", "ä/ö", "s\u0435ssion", "x" * 256, " s "]


class SessionWorld(Protocol):
    """Lanes that run, a bus to their log, and a view that follows it."""

    bus: EventBus
    store: SessionStore
    results: Results
    walk_steps: int
    """How long a random walk is."""


class Results:
    """The results that came, by request; whoever waits for one is told of it."""

    def __init__(self) -> None:
        self._came: defaultdict[str, asyncio.Future[AgentResult]] = defaultdict(
            asyncio.get_running_loop().create_future
        )

    def __call__(self, delivery: Delivery) -> None:
        """Take a result."""
        if isinstance(event := delivery.event, AgentResult):
            self._came[event.request_id].set_result(event)

    async def of(self, request_id: str) -> AgentResult:
        """Wait for a request's result."""
        async with asyncio.timeout(30):
            return await self._came[request_id]


async def results_of(bus: EventBus) -> Results:
    """Gather the results that come from now on."""
    results = Results()
    await bus.subscribe(results, topics=(RESULTS,))
    return results


class Talk:
    """A user, and the manager by which a program acts for them."""

    def __init__(
        self, world: SessionWorld, sessions: SessionManager, user: str | None = None
    ) -> None:
        self.world = world
        self.sessions = sessions
        self.user = user or f"user-{next(_numbers)}"

    async def give(
        self, operation: SessionOperation, session: str, command_id: str | None = None
    ) -> SessionOutcome:
        """Give the command of an operation, of the first turn where it needs one."""
        given: dict[SessionOperation, dict[str, Any]] = {
            "update": {"metadata": {"a": "1"}},
            "name_checkpoint": {"turn": 1, "name": "first"},
            "restore": {"turn": 1},
        }
        give = getattr(self.sessions, operation)
        more = given.get(operation, {})
        outcome = await give(self.user, session, command_id=command_id, **more)
        assert isinstance(outcome, SessionOutcome)
        return outcome

    async def ask(self, text: str, session: str = "s", **fields: Any) -> str:
        """Publish a request; gives its id."""
        request_id = f"r{next(_numbers)}"
        await self.world.bus.publish(
            AgentRequest(
                user_id=self.user, request_id=request_id, session_id=session, input=text, **fields
            )
        )
        return request_id

    async def result(self, request_id: str) -> AgentResult:
        """Wait for a request's result."""
        return await self.world.results.of(request_id)

    async def turn(self, text: str, session: str = "s", **fields: Any) -> AgentResult:
        """Ask, and wait for the result."""
        return await self.result(await self.ask(text, session, **fields))

    async def changes(self) -> list[SessionChanged]:
        """Give the events of the user's sessions, oldest first."""
        found = await self.world.bus.history(
            topics=(SESSION_EVENTS,), filter=EventFilter(user_id=self.user)
        )
        return [one.event for one in found if isinstance(one.event, SessionChanged)]

    async def commands(self) -> int:
        """Count the user's commands on the log."""
        wanted = EventFilter(user_id=self.user)
        return len(
            await self.world.bus.history(topics=(SESSION_COMMANDS,), filter=wanted, limit=10_000)
        )


def code(result: AgentResult) -> str | None:
    return None if result.reason is None else result.reason.code


class SessionManagerContract:
    @pytest.fixture
    async def talk(self, world: SessionWorld) -> AsyncIterator[Talk]:
        async with SessionManager(world.bus, world.store, timeout_s=30) as sessions:
            yield Talk(world, sessions)

    async def test_a_session_from_create_to_delete(self, talk: Talk) -> None:
        sessions, user = talk.sessions, talk.user
        made = await sessions.create(
            user, ttl=timedelta(hours=1), metadata={"customer": "7"}, by="bob", why="a call"
        )
        assert (made.state, made.turn, made.ttl) == ("open", 0, SessionTtl(idle_s=3600))
        name = made.session_id
        assert (await talk.turn("say: one", name)).status == "completed"
        changed = await sessions.update(user, name, metadata={"customer": "8"})
        assert (changed.metadata, changed.ttl) == ({"customer": "8"}, SessionTtl(idle_s=3600))
        closed = await sessions.close(user, name)
        assert (closed.state, closed.turn) == ("closed", 1)
        assert code(await talk.turn("say: two", name)) == "session_closed"
        assert (await sessions.reopen(user, name)).state == "open"
        assert (await sessions.touch(user, name)).state == "open"
        assert (await sessions.expire(user, name)).state == "expired"
        assert code(await talk.turn("say: three", name)) == "session_expired"
        assert (await sessions.reopen(user, name)).state == "open"
        gone = await sessions.delete(user, name, why="asked to")
        assert (gone.state, gone.metadata) == ("deleted", {})
        assert code(await talk.turn("say: four", name)) == "session_deleted"
        events = await talk.changes()
        assert [one.change for one in events] == [
            *("created", "updated", "closed", "reopened"),
            *("expired", "reopened", "deleted"),
        ]
        assert (events[0].by, events[0].why, events[-1].why) == ("bob", "a call", "asked to")

    async def test_a_second_create_changes_nothing_of_the_first(self, talk: Talk) -> None:
        # agno-agi/agno#8646, google/adk-python#6887: it overwrote the conversation.
        await talk.sessions.create(talk.user, "\u00e9", metadata={"a": "1"})
        for spelling in ("\u00e9", "e\u0301"):
            with pytest.raises(SessionExists):
                await talk.sessions.create(talk.user, spelling, metadata={"a": "2"})
        kept = await talk.sessions.touch(talk.user, "\u00e9")
        assert kept.metadata == {"a": "1"}
        other = await talk.sessions.create(talk.user, " \u00e9 ")
        assert other.session_id == " \u00e9 "

    async def test_of_creates_at_the_same_time_one_is_first(
        self, world: SessionWorld, talk: Talk
    ) -> None:
        async with SessionManager(world.bus, world.store, timeout_s=30) as other:
            outcomes = await asyncio.gather(
                *(
                    (talk.sessions, other)[number % 2].create(talk.user, "s")
                    for number in range(20)
                ),
                return_exceptions=True,
            )
        assert [type(one) for one in outcomes if isinstance(one, BaseException)] == (
            [SessionExists] * 19
        )

    @pytest.mark.parametrize("command_id", [None, "c1"])
    async def test_of_creates_at_the_same_time_that_differ_one_is_carried_out_as_it_was_asked(
        self, world: SessionWorld, talk: Talk, command_id: str | None
    ) -> None:
        async with SessionManager(world.bus, world.store, timeout_s=30) as other:
            outcomes = await asyncio.gather(
                *(
                    (talk.sessions, other)[number % 2].create(
                        talk.user, "s", metadata={"asked": str(number)}, command_id=command_id
                    )
                    for number in range(10)
                ),
                return_exceptions=True,
            )
        refused = SessionExists if command_id is None else CommandIdReused
        made = [one for one in outcomes if isinstance(one, SessionOutcome)]
        assert len(made) == 1
        assert [type(one) for one in outcomes if one is not made[0]] == [refused] * 9
        assert made[0].metadata == {"asked": str(outcomes.index(made[0]))}
        assert (await talk.sessions.touch(talk.user, "s")).metadata == made[0].metadata
        assert [one.change for one in await talk.changes()] == ["created"]

    async def test_requests_that_begin_a_session_together_are_its_turns_in_their_order(
        self, talk: Talk
    ) -> None:
        # openai/openai-agents-python#2722: of writes that came first together some were lost.
        asked = [await talk.ask(f"say: {number}") for number in range(10)]
        results = [await talk.result(one) for one in asked]
        assert [one.status for one in results] == ["completed"] * 10
        told = await talk.sessions.messages(talk.user, "s")
        assert [one.text for one in told if one.role != "user"] == [str(one) for one in range(10)]

    async def test_a_session_that_begins_with_a_request_is_one_too(self, talk: Talk) -> None:
        await talk.turn("say: hello")
        with pytest.raises(SessionExists):
            await talk.sessions.create(talk.user, "s")
        reopened = await talk.sessions.reopen(talk.user, "s")
        assert (reopened.state, reopened.turn, reopened.revision) == ("open", 1, 0)
        assert (await talk.sessions.close(talk.user, "s")).state == "closed"

    async def test_a_command_sent_again_has_no_second_effect(self, talk: Talk) -> None:
        async def create() -> str:
            return (await talk.sessions.create(talk.user, "s", command_id="c1")).state

        assert await create() == "open"
        await talk.sessions.close(talk.user, "s", command_id="c2")
        # It was created; what is told of it is as it is now.
        assert await asyncio.gather(*(create() for _ in range(5))) == ["closed"] * 5
        assert len(await talk.changes()) == 2
        with pytest.raises(SessionClosed):
            await talk.sessions.touch(talk.user, "s", command_id="c3")
        await talk.sessions.reopen(talk.user, "s")
        with pytest.raises(SessionClosed):  # what was decided stays so
            await talk.sessions.touch(talk.user, "s", command_id="c3")

    async def test_a_create_without_an_id_that_is_sent_again_is_of_one_session(
        self, talk: Talk
    ) -> None:
        first = await talk.sessions.create(talk.user, command_id="c1")
        again = await talk.sessions.create(talk.user, command_id="c1")
        other = await talk.sessions.create(talk.user, command_id="c2")
        assert first.session_id == again.session_id != other.session_id
        assert len(await talk.changes()) == 2

    async def test_a_command_tells_when_its_session_expires(self, talk: Talk) -> None:
        made = await talk.sessions.create(talk.user, "s", ttl=60)
        shown = await talk.sessions.get(talk.user, "s")
        assert shown is not None
        assert made.expires_at_ms == shown.expires_at_ms is not None
        await talk.turn("say: hello")
        # Counted from the run, which the view may not have heard of.
        longer = await talk.sessions.update(talk.user, "s", ttl=3600)
        assert longer.expires_at_ms is not None
        assert longer.expires_at_ms >= made.expires_at_ms + 3_540_000
        assert (await talk.sessions.update(talk.user, "s", ttl=SessionTtl())).expires_at_ms is None
        assert (await talk.sessions.close(talk.user, "s")).expires_at_ms is None

    async def test_all_that_drain_are_closed_harder_and_the_view_is_not_waited_for(
        self, talk: Talk
    ) -> None:
        sessions, user = talk.sessions, talk.user
        for name in ("a", "b"):
            await talk.turn("say: hello", name)
        first, waiting = await talk.ask("slow: 1; say: x", "a"), await talk.ask("say: y", "a")
        async with asyncio.timeout(10):
            assert await sessions.close_all(user, drain=True) == 2
            assert await sessions.close_all(user) == 2
            assert await sessions.close_all(user) == 0
        assert (await talk.result(first)).output == "x"
        assert code(await talk.result(waiting)) == "session_closed"

    async def test_an_id_is_for_one_command(self, talk: Talk) -> None:
        await talk.sessions.create(talk.user, "s", command_id="c1")
        with pytest.raises(CommandIdReused, match="give this one an id of its own"):
            await talk.sessions.delete(talk.user, "s", command_id="c1")
        with pytest.raises(CommandIdReused):
            await talk.sessions.create(talk.user, "other", command_id="c1")
        with pytest.raises(CommandIdReused):
            await talk.sessions.create(talk.user, "s", metadata={"a": "1"}, command_id="c1")
        assert (await talk.sessions.touch(talk.user, "s")).state == "open"

    async def test_two_users_may_use_one_command_id_and_one_session_id(
        self, world: SessionWorld, talk: Talk
    ) -> None:
        other = Talk(world, talk.sessions)
        mine, theirs = await asyncio.gather(
            talk.sessions.create(talk.user, "s", metadata={"of": "me"}, command_id="c"),
            talk.sessions.create(other.user, "s", metadata={"of": "them"}, command_id="c"),
        )
        assert (mine.metadata, theirs.metadata) == ({"of": "me"}, {"of": "them"})
        same_user_elsewhere = await talk.sessions.create(talk.user, "s", tenant="acme")
        assert same_user_elsewhere.metadata == {}

    async def test_the_session_of_another_user_or_tenant_does_not_exist(
        self, world: SessionWorld, talk: Talk
    ) -> None:
        # aegra/aegra#336: whoever knew a thread's id ran in it; only lists asked whose it was.
        await talk.sessions.create(talk.user, "s")
        eve = Talk(world, talk.sessions).user
        sessions = talk.sessions
        for user, tenant in ((eve, "default"), (talk.user, "acme")):
            of: dict[str, Any] = {"user_id": user, "session_id": "s", "tenant": tenant}
            for asked in (
                sessions.touch(**of),
                sessions.update(**of, metadata={}),
                sessions.close(**of),
                sessions.reopen(**of),
                sessions.expire(**of),
                sessions.delete(**of),
                sessions.name_checkpoint(**of, turn=1, name="x"),
                sessions.restore(**of, turn=1),
                sessions.messages(**of),
                sessions.checkpoints(**of),
            ):
                # In the same words, whoever says it: they tell neither what there is.
                with pytest.raises(SessionUnknown) as told:
                    await asked
                assert str(told.value) == str(SessionUnknown.of(user, "s"))
            assert await sessions.get(**of) is None
            assert await sessions.delete_all(user, tenant=tenant) == 0
        assert (await sessions.touch(talk.user, "s")).state == "open"

    @pytest.mark.parametrize("name", HOSTILE, ids=lambda one: ascii(one)[:20])
    async def test_any_name_is_only_a_name(self, talk: Talk, name: str) -> None:
        made = await talk.sessions.create(talk.user, name, command_id=name, by=name)
        assert made.session_id == name
        assert (await talk.turn("say: hi", name)).status == "completed"
        assert (await talk.sessions.delete(talk.user, name)).state == "deleted"

    async def test_bad_input_sends_nothing(self, talk: Talk) -> None:
        sessions, user = talk.sessions, talk.user
        for asked in (
            sessions.create(user, "s", ttl=0),
            sessions.create(user, "a\nb"),
            sessions.create(user, "x" * 10_000),
            sessions.create(user, "s", metadata={"a": "x" * 1_000_000}),
            sessions.update(user, "s"),
            sessions.restore(user, "s"),
            sessions.restore(user, "s", turn=1, name="x"),
            sessions.close_all("", tenant="default"),
            sessions.touch(user, "s", tenant="a/b"),
        ):
            with pytest.raises(SessionInputInvalid):
                await asked
        assert await talk.commands() == 0

    @pytest.mark.parametrize("limit", [0, -1, 101])
    async def test_a_page_has_a_bounded_size(self, talk: Talk, limit: int) -> None:
        with pytest.raises(ValueError, match="limit"):
            await talk.sessions.list(talk.user, limit=limit)

    async def test_a_conversation_is_read_as_the_next_run_finds_it(self, talk: Talk) -> None:
        await talk.turn("say: one")
        await talk.turn("call: clock {}; say: two", template="react_agent")
        told = await talk.sessions.messages(talk.user, "s")
        assert [(one.role, one.text) for one in told if one.role != "tool"] == [
            ("user", "say: one"),
            ("assistant", "one"),
            ("user", "call: clock {}; say: two"),
            ("assistant", ""),
            ("assistant", "two"),
        ]

    async def test_a_session_without_turns_has_no_messages(self, talk: Talk) -> None:
        await talk.sessions.create(talk.user, "s")
        assert await talk.sessions.messages(talk.user, "s") == ()

    async def test_a_restore_goes_back_and_the_next_run_begins_there(self, talk: Talk) -> None:
        sessions, user = talk.sessions, talk.user
        for number in range(1, 5):
            await talk.turn(f"say: {number}")
        named = await sessions.name_checkpoint(user, "s", 2, "good")
        assert [(one.name, one.turn) for one in named.names] == [("good", 2)]
        with pytest.raises(NameTaken):
            await sessions.name_checkpoint(user, "s", 3, "good")
        for nowhere in ({"turn": 99}, {"name": "bad"}):
            with pytest.raises(CheckpointUnknown, match="list those that it has"):
                await sessions.restore(user, "s", **nowhere)
        # QwenLM/qwen-code#5357: the conversation was gone before the checkpoint was looked at.
        assert len(await sessions.messages(user, "s")) == 8
        restored = await sessions.restore(user, "s", name="good", by="bob")
        assert restored.turn == 5
        answers = [one.text for one in await sessions.messages(user, "s") if one.role != "user"]
        assert answers == ["1", "2"]
        await talk.turn("say: again")
        answers = [one.text for one in await sessions.messages(user, "s") if one.role != "user"]
        assert answers == ["1", "2", "again"]
        (event,) = [one for one in await talk.changes() if one.change == "restored"]
        assert (event.restored_turn, event.turn, event.by) == (2, 5, "bob")

    async def test_what_runs_is_neither_expired_nor_restored_under(self, talk: Talk) -> None:
        await talk.turn("say: one")
        running = await talk.ask("hang")
        with pytest.raises(SessionBusy):
            await talk.sessions.restore(talk.user, "s", turn=1)
        with pytest.raises(SessionBusy):
            await talk.sessions.expire(talk.user, "s")
        # decocms/studio#6190: a run went on without its session.
        await talk.sessions.delete(talk.user, "s")
        assert (await talk.result(running)).status == "cancelled"

    async def test_all_of_a_users_sessions_are_closed_and_deleted(
        self, world: SessionWorld, talk: Talk
    ) -> None:
        other = Talk(world, talk.sessions)
        await asyncio.gather(
            *(talk.sessions.create(talk.user, f"s{number}") for number in range(30)),
            other.sessions.create(other.user, "s"),
        )
        await talk.sessions.close(talk.user, "s0")
        assert await talk.sessions.close_all(talk.user) == 29
        # What the program was answered it reads at once.
        page = await talk.sessions.list(talk.user, wanted=SessionFilter(state="closed"))
        assert len(page.sessions) == 30
        assert await talk.sessions.close_all(talk.user) == 0
        given = "delete-them"
        assert await talk.sessions.delete_all(talk.user, command_id=given) == 30
        assert (await talk.sessions.list(talk.user)).sessions == ()
        assert await talk.sessions.delete_all(talk.user, command_id=given) == 30
        with pytest.raises(SessionDeleted):
            await talk.sessions.reopen(talk.user, "s7")
        assert (await other.sessions.touch(other.user, "s")).state == "open"

    async def test_what_is_deleted_stays_so(self, talk: Talk) -> None:
        # langchain-ai/langgraph#7206: a late write brought it back.
        await talk.turn("say: secret")
        await talk.sessions.delete(talk.user, "s")
        with pytest.raises(SessionDeleted):
            await talk.sessions.create(talk.user, "s")
        assert code(await talk.turn("say: hi")) == "session_deleted"
        assert (await talk.sessions.delete(talk.user, "s")).state == "deleted"
        with pytest.raises(SessionUnknown):
            await talk.sessions.messages(talk.user, "s")
        # langchain-ai/langgraph#6686: a list showed what could not be opened any more.
        assert await talk.sessions.get(talk.user, "s") is None
        assert (await talk.sessions.list(talk.user)).sessions == ()

    async def test_an_expired_session_is_opened_again_with_its_conversation(
        self, talk: Talk
    ) -> None:
        await talk.turn("say: one")
        await talk.sessions.expire(talk.user, "s")
        with pytest.raises(SessionExpired):
            await talk.sessions.touch(talk.user, "s")
        await talk.sessions.reopen(talk.user, "s")
        await talk.turn("say: two")
        told = await talk.sessions.messages(talk.user, "s")
        assert [one.text for one in told if one.role == "assistant"] == ["one", "two"]

    @pytest.mark.parametrize("seed", range(4))
    async def test_random_walks_agree_with_the_table_of_transitions(
        self, world: SessionWorld, talk: Talk, seed: int
    ) -> None:
        chance = random.Random(seed)  # noqa: S311  a walk is no secret
        states: dict[str, Before] = dict.fromkeys(("a", "b", "c"), "unknown")
        turns: Counter[str] = Counter()
        for _ in range(world.walk_steps):
            name = chance.choice(list(states))
            before = states[name]
            if chance.random() < 0.2:
                result = await talk.turn("say: hi", name)
                if before in {"unknown", "open"}:
                    assert result.status == "completed"
                    states[name] = "open"
                    turns[name] += 1
                else:
                    assert (result.status, code(result)) == ("rejected", f"session_{before}")
                continue
            operation = chance.choice(list(TRANSITIONS))
            expected = TRANSITIONS[operation][before]
            if operation in {"restore", "name_checkpoint"} and not turns[name]:
                expected = CheckpointUnknown if isinstance(expected, str) else expected
            if isinstance(expected, str):
                outcome = await talk.give(operation, name)
                assert outcome.state == expected, (operation, before)
                states[name] = expected
                turns[name] += operation == "restore"
            else:
                with pytest.raises(expected):
                    await talk.give(operation, name)

    async def test_what_many_callers_are_told_agrees_with_one_order_of_the_log(
        self, world: SessionWorld, talk: Talk
    ) -> None:
        chance = random.Random(7)  # noqa: S311  as above
        operations = [one for one in TRANSITIONS if one not in {"restore", "name_checkpoint"}]
        async with SessionManager(world.bus, world.store, timeout_s=30) as other:
            both = (talk, Talk(world, other, talk.user))
            told = await asyncio.gather(
                *(
                    both[number % 2].give(
                        chance.choice(operations), chance.choice("ab"), f"c{number}"
                    )
                    for number in range(200)
                ),
                return_exceptions=True,
            )
        found = await world.bus.history(
            topics=(SESSION_ANSWERS,), filter=EventFilter(user_id=talk.user), limit=1000
        )
        states: dict[str, Before] = {"a": "unknown", "b": "unknown"}
        assert len(found) == 200
        for one in found:
            answered = one.event
            assert isinstance(answered, SessionAnswered)
            name = answered.session_id or ""
            expected = TRANSITIONS[answered.operation][states[name]]
            caller = told[int(answered.command_id[1:])]
            if isinstance(expected, str):
                states[name] = expected
                assert isinstance(caller, SessionOutcome)
                assert caller.state == expected
            else:
                assert type(caller) is expected

    async def test_many_callers_at_once_each_get_their_own_answer(self, talk: Talk) -> None:
        async def life(number: int) -> list[str]:
            name = f"s{number % 50}-{number}"
            made = await talk.sessions.create(talk.user, name, metadata={"n": str(number)})
            closed = await talk.sessions.close(talk.user, name)
            return [made.metadata["n"], closed.metadata["n"], closed.state]

        lives = await asyncio.gather(*(life(number) for number in range(300)))
        assert lives == [[str(number), str(number), "closed"] for number in range(300)]
