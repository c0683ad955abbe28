"""Tools that answer otherwise for the same key, and reconcilers that are of no help."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.prebuilt import ToolRuntime

from millstream.agents.loop.calls import Calls
from millstream.agents.tools import Caller, OutcomeUnknown, ToolRegistry, built_in_tools, tool
from millstream.schemas.journal.steps import JournalStep
from tests.fakes.odd_models import OddModel
from tests.harness.journalled import Hold, Outside, clerk, journal_of, run_through
from tests.harness.memory_lanes import MemoryLanes

pytestmark = pytest.mark.promise("P2")

CALL = {"name": "put", "args": {"n": 1}, "id": "c1", "type": "tool_call"}
OTHER = {"name": "put", "args": {"n": 2}, "id": "c2", "type": "tool_call"}
PUT, AGAIN, DONE = (
    AIMessage("", tool_calls=[CALL]),
    AIMessage("", tool_calls=[OTHER]),
    AIMessage("done"),
)
ONE_TOOL = clerk(models=("main",), tools=("put",))


def counting(outside: Outside) -> ToolRegistry:
    """Give a tool that says how often it was called, whatever its key."""

    @tool(effect="idempotent", timeout_s=outside.timeout_s)
    async def put(n: int, runtime: ToolRuntime[Caller]) -> str:
        """Put something."""
        await outside.does(f"put {n}", runtime)
        return f"put for the time {len(outside.begun)}"

    return ToolRegistry((*built_in_tools(), put))


@pytest.mark.parametrize(
    ("holds", "first"),
    [([Hold("asked", 1)], 1), ([Hold("ended")], 2), ([Hold("ended"), Hold("asked", 0)], 2)],
    ids=["recorded", "not recorded", "then lost behind it"],
)
async def test_of_what_a_tool_gives_for_one_key_the_first_that_was_recorded_stands(
    world: MemoryLanes, holds: list[Hold | None], first: int
) -> None:
    outside, main = Outside(), OddModel(says=[PUT, AGAIN, DONE])
    result = await run_through(
        world,
        outside,
        "x",
        [*holds, None],
        [ONE_TOOL],
        tools=counting(outside),
        resolve=lambda *_, **__: main,
    )
    assert (result.status, result.output) == ("completed", "done")
    told = {str(one.content) for asked in main.seen for one in asked if is_answer(one, "c1")}
    assert told == {f"put for the time {first}"}
    done = [one for one in await journal_of(world) if (one.kind, one.call_id) == ("done", "c1")]
    assert len(done) == 1
    keys = {
        name: {key for called, key in outside.begun if called == name} for name, _ in outside.begun
    }
    assert {name: len(one) for name, one in keys.items()} == {"put 1": 1, "put 2": 1}


def is_answer(message: Any, call_id: str) -> bool:
    return isinstance(message, ToolMessage) and message.tool_call_id == call_id


async def test_a_second_answer_to_one_call_on_the_journal_counts_nothing(
    world: MemoryLanes,
) -> None:
    outside, main = Outside(), OddModel(says=[PUT, AGAIN, DONE])
    await run_through(
        world,
        outside,
        "x",
        [Hold("asked", 1), Hold("asked", 0), None],
        [ONE_TOOL],
        tools=counting(outside),
        resolve=lambda *_, **__: main,
    )
    steps = await journal_of(world)
    (recorded,) = [one for one in steps if (one.kind, one.call_id) == ("done", "c1")]
    again = recorded.model_copy(update={"step": len(steps), "content": altered(recorded)})
    calls = Calls.recorded((*steps, again))
    assert getattr(calls.answered_tool("c1"), "content", None) == "put for the time 1"


def altered(step: JournalStep) -> dict[str, Any]:
    content = step.content or {}
    return {**content, "message": {**content.get("message", {}), "content": "something else"}}


def asked_about(outside: Outside, reconcile: Callable[..., Any]) -> ToolRegistry:
    """Give a tool that is asked about by this function."""

    @tool(effect="reconcile", reconcile=reconcile, timeout_s=outside.timeout_s)
    async def put(n: int, runtime: ToolRuntime[Caller]) -> str:
        """Put something."""
        return await outside.does(f"put {n}", runtime)

    return ToolRegistry((*built_in_tools(), put))


async def raises(_: Caller, __: dict[str, Any]) -> Any:
    message = "the ledger is away"
    raise ConnectionError(message)


async def hangs(_: Caller, __: dict[str, Any]) -> Any:
    await asyncio.Event().wait()


async def cannot_tell(_: Caller, __: dict[str, Any]) -> Any:
    message = "two entries look alike"
    raise OutcomeUnknown(message)


async def says_neither(_: Caller, __: dict[str, Any]) -> Any:
    return None


@pytest.mark.parametrize("lost", [Hold("begun"), Hold("happened"), Hold("ended")], ids=str)
@pytest.mark.parametrize(
    ("reconcile", "words"),
    [
        (raises, "failed: ConnectionError: the ledger is away"),
        (hangs, "gave no answer within 0.4 s"),
        (cannot_tell, "cannot tell: two entries look alike"),
        (says_neither, "return the call's result or NOT_MADE, and raise OutcomeUnknown"),
    ],
    ids=["raises", "hangs", "cannot tell", "says neither"],
)
async def test_a_reconciler_that_is_of_no_help_leaves_its_run_in_doubt_and_its_call_alone(
    world: MemoryLanes, reconcile: Callable[..., Any], words: str, lost: Hold
) -> None:
    outside, main = Outside(), OddModel(says=[PUT, DONE])
    result = await run_through(
        world,
        outside,
        "x",
        [lost, None],
        [ONE_TOOL],
        tools=asked_about(outside, reconcile),
        resolve=lambda *_, **__: main,
    )
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "in_doubt")
    assert words in result.reason.message
    for told in ("put", "c1", '{"n": 1}', "find out before you ask anew"):
        assert told in result.reason.message
    assert [name for name, _ in outside.begun] == ["put 1"]
    assert len(main.seen) == 1
