"""What went wrong elsewhere with runs that are lost or wait, tried on ours.

Public reports: each test names those that it follows.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, NoReturn

import pytest
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import StructuredTool
from typing_extensions import override

from millstream.agents.executor import wall_clock_ms
from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.tools import ToolRegistry, ToolRules, tool
from millstream.schemas.errors import ModelFailed
from millstream.schemas.events import AgentResult
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.lane_events import HoldPlaced
from millstream.schemas.sessions.states import SessionAnswered
from millstream.schemas.topics import (
    HOLDS,
    JOURNAL,
    RESULTS,
    SESSION_ANSWERS,
    SESSION_COMMANDS,
    SESSIONS,
)
from tests.fakes.odd_models import OddModel, calling
from tests.harness.journalled import CLERK, Hold, Outside, clerk, journal_of, run_through
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    ask,
    give,
    lane_services,
    newest_parked,
    one_lane,
    open_keys,
    read_topic,
    upstream,
    write_event,
)
from tests.harness.migrating import answers, code_of, move
from tests.support import eventually

pytestmark = pytest.mark.promise("P2")


class Refused(Exception):
    """Cannot be made anew of what it says of itself."""

    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"refused with {code}: {why}")


@pytest.mark.parametrize("lost", [Hold("asked", 1), Hold("begun")], ids=str)
async def test_what_a_tool_raised_is_told_again_as_it_was_whatever_its_type(
    world: MemoryLanes, lost: Hold
) -> None:
    """czpython/druks#552: an error is raised as another one by whoever goes on."""
    outside, made = Outside(), list[int]()
    registry = outside.tools()

    @tool(effect="idempotent")
    async def refuse(n: int) -> NoReturn:
        """Refuse."""
        made.append(n)
        raise Refused(n, why="no")

    registry.register(refuse)
    main = OddModel(
        says=[
            calling(("refuse", {"n": 7}, "c1")),
            calling(("look", {"n": 1}, "c2")),
            AIMessage("x"),
        ]
    )
    result = await run_through(
        world,
        outside,
        "x",
        [lost, None],
        [clerk(tools=("refuse", "look"))],
        tools=registry,
        resolve=lambda *_, **__: main,
    )
    assert result.status == "completed"
    assert made == [7]
    told = {(one.text, one.status) for seen in main.seen for one in seen if _answers(one, "c1")}
    assert told == {("Refused: refused with 7: no", "error")}


def _answers(message: Any, call_id: str) -> bool:
    return isinstance(message, ToolMessage) and message.tool_call_id == call_id


async def test_a_journal_that_cannot_be_read_ends_its_run_and_no_other(world: MemoryLanes) -> None:
    """dbos-inc/dbos-transact-java#461, dbos-inc/dbos-transact-py#716: one stops all others."""
    outside = Outside(timeout_s=5)
    text = 'call: put {"n": 1}; call: look {"n": 2}; say: done'
    async with (
        upstream(world) as program,
        lane_services(world, outside, [CLERK], tools=outside.tools()) as services,
    ):
        named = [{"request_id": f"r{n}", "session_id": f"s{n}"} for n in range(4)]
        asked = [
            one for name in named for one in await ask(program, text, **name, template="clerk")
        ]
        pairs = [*zip(asked[::2], asked[1::2], strict=True)]
        async with one_lane(world, services, None) as owner:
            for one in pairs:
                owner.serve(*one)

            async def stand_all() -> bool:
                return len(await journal_of(world)) >= 4

            outside.begin_worker(Hold("begun", 3))
            await eventually(stand_all)
        before = await journal_of(world)
        bad = before[0]
        steps = [one for one in before if one.request_id == bad.request_id]
        wrong = JournalStep(
            **bad.model_dump(include={"tenant", "user_id", "at_ms", "request_id", "session_id"}),
            attempt=1000,
            step=len(steps),
            kind="guessed",
        )
        await write_event(world, program, JOURNAL, wrong)
        outside.begin_worker(None)
        async with one_lane(world, services, None) as owner:
            for one in pairs:
                owner.serve(*one)
            results = await read_topic(world, RESULTS, AgentResult, count=4)
    by_id = {one.request_id: one for one in results}
    failed = by_id.pop(bad.request_id)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == ("failed", "journal_unreadable")
    assert {one.status for one in by_id.values()} == {"completed"}


ARTIFACT = {
    1: "one",
    "pair": (1, 2),
    "set": {3},
    "bytes": b"\x00\xff",
    "not a number": [float("inf")],
}


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_a_tool_gives_beside_its_words_is_the_same_at_the_next_worker(
    world: MemoryLanes, workers: int
) -> None:
    """pydantic/pydantic-ai#3702, #4746, #6895: bytes fail, keys become text, or all is lost."""
    outside, seen = Outside(), list[Any]()

    class Sees(AgentMiddleware[Any, Any, Any]):
        """Keeps what stands beside the words of the newest answer of a tool."""

        @override
        def before_model(self, state: Any, runtime: Any) -> None:
            answers = [one for one in state["messages"] if isinstance(one, ToolMessage)]
            seen[:] = [one.artifact for one in answers[:1]]

    def fetch() -> tuple[str, Any]:
        """Fetch."""
        return "fetched", ARTIFACT

    registry: ToolRegistry = outside.tools()
    made = StructuredTool.from_function(fetch, response_format="content_and_artifact")
    registry.register(made, ToolRules(effect="idempotent"))
    holds: list[Hold | None] = [Hold("begun"), None][2 - workers :]
    result = await run_through(
        world,
        outside,
        'call: fetch {}; call: look {"n": 1}; say: done',
        holds,
        [clerk(tools=("fetch", "look"), middlewares=[{"name": "sees"}])],
        tools=registry,
        middlewares={"sees": Sees},
    )
    assert (result.status, result.output) == ("completed", "done")
    assert seen == [ARTIFACT]


BECAME = {
    "delete": ("cancelled", "session_deleted"),
    "close": ("completed", None),
    "restore": ("completed", None),
}


@pytest.mark.parametrize("owners", [1, 2])
@pytest.mark.parametrize("operation", BECAME)
async def test_a_session_is_changed_while_its_run_waits_behind_what_it_did(
    world: MemoryLanes, operation: str, owners: int
) -> None:
    """langchain-ai/langgraph#7206, EvoScientist/EvoScientist#358, pingdotgg/t3code#10299.

    What was deleted is written once more, a run outlives its session, or goes on from another turn.
    """
    outside = Outside(timeout_s=5)
    async with (
        upstream(world) as program,
        lane_services(world, outside, [CLERK], tools=outside.tools()) as services,
    ):

        async def change(owner: OneLane) -> AgentResult:
            more = {"turn": 1} if operation == "restore" else {}
            value = {"user_id": "ada", "operation": operation, "session_id": "s", **more}
            value["command_id"] = "c1"
            topic = world.topic(SESSION_COMMANDS)
            owner.serve(await program.publish(value, key=b"ada", topic=topic), value)
            (answer,) = await read_topic(world, SESSION_ANSWERS, SessionAnswered, count=1)
            code = None if answer.refused is None else answer.refused.code
            assert code == ("session_busy" if operation == "restore" else None)
            owner.serve(*await give(world, program, "resume", request_id="r1"))
            return (await read_topic(world, RESULTS, AgentResult, count=3))[-1]

        async with one_lane(world, services, None) as owner:
            for turn in (1, 2):
                named = {"request_id": f"t{turn}", "session_id": "s"}
                owner.serve(*await ask(program, f"say: turn {turn}", template="clerk", **named))
                await read_topic(world, RESULTS, AgentResult, count=turn)
            outside.begin_worker(Hold("begun", 1))
            text = 'call: put {"n": 1}; call: look {"n": 2}; say: done'
            owner.serve(*await ask(program, text, template="clerk", session_id="s"))
            await asyncio.wait_for(outside.is_held.wait(), 10)
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            await read_topic(world, HOLDS, HoldPlaced, count=1)
            outside.goes_on.set()
            await eventually(lambda: owner.lane.waiting == 1)
            outside.begin_worker(None)
            if owners == 1:
                result = await change(owner)
        if owners == 2:
            async with one_lane(world, services, None) as owner:
                result = await change(owner)
    code = None if result.reason is None else result.reason.code
    assert (result.status, code) == BECAME[operation]
    assert result.turn == (3 if result.status == "completed" else None)
    assert [name for name, _ in outside.begun] == ["put 1", "look 2"]
    # Nothing is written of a session that is gone.
    assert bool(await open_keys(world, SESSIONS)) == (operation != "delete")


async def test_a_run_whose_next_attempt_waits_is_moved_and_waits_on_as_long(
    world: MemoryLanes,
) -> None:
    """temporalio/temporal#8488: a retry that is moved keeps what stands of its version before."""
    outside = Outside()
    later_on = RetryPolicy(backoff_first_s=60, backoff_max_s=60, jitter=0)
    main = OddModel(
        says=[calling(("put", {"n": 1}, "c")), ModelFailed("overloaded"), AIMessage("done")]
    )
    more: dict[str, Any] = {"tools": outside.tools(), "resolve": lambda *_, **__: main}
    old, new = (clerk(version=one, retry=later_on, system_prompt=f"As {one}.") for one in "12")
    async with upstream(world) as program:
        async with (
            lane_services(world, outside, [old], **more) as services,
            one_lane(world, services, None) as owner,
        ):
            owner.serve(*await ask(program, "x", template="clerk"))
            await eventually(lambda: owner.lane.waiting == 1)
            before = newest_parked(world)
        async with lane_services(world, outside, [new], **more) as services:
            async with one_lane(world, services, None) as owner:
                owner.serve(*await move(world, program, "2"))
                assert [code_of(one) for one in await answers(world)] == [None]
                moved = newest_parked(world)
            assert (moved.template_version, moved.not_before_ms) == ("2", before.not_before_ms)
            assert len(main.seen) == 2
            later = replace(services, clock_ms=lambda: wall_clock_ms() + 61_000)
            async with one_lane(world, later, None):
                (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.template_version) == ("completed", "2")
    assert [name for name, _ in outside.begun] == ["put 1"]
    assert [one.text for one in main.seen[2] if one.type == "system"] == ["As 2."]
