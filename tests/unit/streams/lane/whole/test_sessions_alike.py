"""A lane that keeps next to no session in memory decides as one that keeps all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from millstream.schemas.events import AgentResult, CheckpointSaved, SessionUpdated
from millstream.schemas.sessions.states import SessionAnswered, SessionChanged, SessionState
from millstream.schemas.topics import (
    CHECKPOINTS,
    SESSION_COMMANDS,
    SESSION_EVENTS,
    SESSION_STATES,
    SESSIONS,
)
from millstream.streams.wire.codec import decode
from tests.harness.lane_sessions import SHORT, STRICT, Sessions, code_of
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    ask,
    lane_services,
    one_lane,
    read_whole,
    upstream,
)

pytestmark = [pytest.mark.promise("P6"), pytest.mark.promise("P8")]

Step = tuple[str, dict[str, Any]]

SESSION = st.sampled_from("abc")
TTLS = st.sampled_from([{"idle_s": 100}, {"total_s": 300}, {"idle_s": 100, "total_s": 300}, {}])


def commands() -> st.SearchStrategy[Step]:
    simple = st.sampled_from(
        ["touch", "close", "reopen", "reopen", "expire", "delete", "create", "update"]
    )
    return st.one_of(
        st.builds(lambda name, session: (name, {"session_id": session}), simple, SESSION),
        st.builds(
            lambda name, session, ttl: (
                name,
                {"session_id": session, "ttl": ttl, "metadata": {"x": session}},
            ),
            st.sampled_from(["create", "update"]),
            SESSION,
            TTLS,
        ),
        st.builds(
            lambda session, turn: ("restore", {"session_id": session, "turn": turn}),
            SESSION,
            st.integers(1, 4),
        ),
        st.builds(
            lambda session, name: ("restore", {"session_id": session, "name": name}),
            SESSION,
            st.sampled_from("nm"),
        ),
        st.builds(
            lambda session, turn, name: (
                "name_checkpoint",
                {"session_id": session, "turn": turn, "name": name},
            ),
            SESSION,
            st.integers(1, 4),
            st.sampled_from("nm"),
        ),
        st.builds(
            lambda session: ("expire", {"session_id": session, "if_due": True}),
            SESSION,
        ),
        st.sampled_from([("close", {}), ("delete", {})]),
    )


def turns() -> st.SearchStrategy[Step]:
    more: st.SearchStrategy[dict[str, Any]] = st.one_of(
        st.just({}),
        st.just({}),
        st.builds(lambda turn: {"expected_turn": turn}, st.integers(0, 4)),
        st.sampled_from([{"template": "strict"}, {"template": "short"}]),
    )
    return st.builds(
        lambda session, given: ("ask", {"session_id": session, **given}), SESSION, more
    )


STEPS = st.lists(
    st.one_of(
        commands(),
        commands(),
        turns(),
        turns(),
        st.builds(lambda s: ("later", {"by_ms": s}), st.sampled_from([40_000, 99_000, 150_000])),
        st.sampled_from([("restart", {}), ("leave", {}), ("compact", {})]),
    ),
    min_size=1,
    max_size=25,
)


class Side:
    """One of two deployments that are told the same."""

    def __init__(self, world: MemoryLanes, mine: Sessions, opened: Opened) -> None:
        self._world = world
        self._mine = mine
        self._opened = opened
        self._after_ms = 0

    async def take(self, step: Step, number: int) -> Any:
        """Take a step; gives what was answered, without times and names."""
        name, more = step
        match name:
            case "later":
                self._after_ms += more["by_ms"]
                return None
            case "restart" | "leave":
                await self._opened.again(snapshot=name == "leave")
                return None
            case "compact":
                for spec in (SESSIONS, SESSION_STATES):
                    self._world.broker.compact(self._world.topic(spec))
                return None
            case "ask":
                sent, value = await ask(
                    self._mine.program, "say: x", request_id=f"r{number}", **more
                )
                self._serve(sent, value)
                return told_of_result(await self._mine.result(f"r{number}"))
            case _:
                value = {"user_id": "ada", "operation": name, "command_id": f"c{number}"}
                value |= more
                sent = await self._mine.program.publish(
                    value, key=b"ada", topic=self._world.topic(SESSION_COMMANDS)
                )
                self._serve(sent, value)
                return told_of_answer(await self._mine.answered(f"c{number}"))

    def _serve(self, sent: Any, value: dict[str, Any]) -> None:
        self._opened.owner.serve(sent._replace(timestamp=sent.timestamp + self._after_ms), value)

    async def log(self) -> dict[str, Any]:
        """Give what stands on the log, without times, ids and offsets."""
        saved = await read_whole(self._world, CHECKPOINTS, CheckpointSaved)
        turn_of = {one.checkpoint_id: (one.session_id, one.turn) for one in saved}
        newest = {
            one.key: one
            for at in self._world.places(SESSIONS)
            for one in self._world.broker.records(at)
        }
        heads = [decode(one, SessionUpdated) for one in newest.values() if one.value is not None]
        states = await read_whole(self._world, SESSION_STATES, SessionState)
        changes = await read_whole(self._world, SESSION_EVENTS, SessionChanged)
        return {
            "checkpoints": [
                (one.session_id, one.turn, turn_of.get(one.parent_id or ""), len(one.data))
                for one in saved
            ],
            "heads": {
                one.session_id: (one.turn, turn_of[one.checkpoint_id], one.template)
                for one in heads
            },
            "states": {one.session_id: told_of_state(one) for one in states},
            # All of a user's sessions are closed in whichever order they are found.
            "changes": sorted(
                (one.session_id, one.revision, one.change, one.turn) for one in changes
            ),
        }


class Opened:
    """The lane that is open, which another one may follow."""

    def __init__(self, open_one: Callable[[], Any]) -> None:
        self._open_one = open_one
        self._stack = AsyncExitStack()
        self.owner: OneLane

    async def first(self) -> None:
        """Open the first one."""
        self.owner = await self._stack.enter_async_context(self._open_one())

    async def again(self, *, snapshot: bool) -> None:
        """Have another lane follow, after a crash or a farewell with a snapshot."""
        if snapshot:
            await self.owner.lane.drain(1)
            await self.owner.lane.close()
        await self.close()
        await self.first()

    async def close(self) -> None:
        """Close it."""
        await self._stack.aclose()
        self._stack = AsyncExitStack()


def told_of_state(state: SessionState | None) -> Any:
    if state is None:
        return None
    names = [(one.name, one.turn) for one in state.names]
    return state.session_id, state.state, state.revision, state.ttl, dict(state.metadata), names


def told_of_answer(answer: SessionAnswered) -> Any:
    return code_of(answer), told_of_state(answer.session), answer.turn, answer.sessions


def told_of_result(result: AgentResult) -> Any:
    return result.status, code_of(result), result.output


@asynccontextmanager
async def side(sessions_in_memory: int) -> AsyncIterator[Side]:
    world = MemoryLanes().changed(
        sessions_in_memory=sessions_in_memory,
        snapshot_records=100_000 if sessions_in_memory > 1 else 5,
        partitions=1,
    )
    templates = (*BUILT_IN_TEMPLATES, STRICT, SHORT)
    async with (
        lane_services(world, templates=templates) as services,
        upstream(world) as program,
    ):
        opened = Opened(lambda: one_lane(world, services, None))
        try:
            await opened.first()
            yield Side(world, Sessions(world, program), opened)
        finally:
            await opened.close()


async def compared(steps: list[Step]) -> None:
    async with side(1000) as whole, side(1) as bounded:
        for number, step in enumerate(steps):
            told = await bounded.take(step, number)
            # One of the two is never restarted, nor is its log compacted.
            if step[0] not in {"restart", "leave", "compact"}:
                assert told == await whole.take(step, number), (number, step)
        known = await bounded.log()
        expected = await whole.log()
        assert known == expected


# The state of `a` is in memory as its time is over, and its head is not.
OVER = [
    ("ask", {"session_id": "a", "template": "short"}),
    ("later", {"by_ms": 99_000}),
    ("ask", {"session_id": "b"}),
    ("ask", {"session_id": "a"}),
]


@example(OVER)
@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_whatever_is_asked_is_answered_alike(steps: list[Step]) -> None:
    asyncio.run(compared(steps))
