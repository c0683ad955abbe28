"""Listeners are told what they want to hear, and harm no run whatever they do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from millstream.agents.executor import AgentExecutor
from millstream.agents.loop.telling.events import CallbackEvent
from millstream.agents.loop.telling.listeners import Listener, Listeners
from millstream.schemas.errors import Misconfigured
from tests.harness.agent_runs import Runs

SUM = 'call: calculator {"expression": "12*12"}; say: it is {tool_result}'


@contextmanager
def listening(*listeners: Listener) -> Iterator[Listeners]:
    told = Listeners(listeners)
    try:
        yield told
    finally:
        told.close(within_s=0.2)


def event(**fields: Any) -> CallbackEvent:
    return CallbackEvent(**{"kind": "tool_start", "at_ms": 1, **fields})


async def run_with(*listeners: Listener) -> Listeners:
    """Run an agent with a tool to its end, and let its listeners hear of it."""
    runs = Runs()
    with listening(*listeners) as told:
        executor = AgentExecutor(runs.factory, listeners=told)
        outcome = await runs.run(SUM, template="react_agent", executor=executor)
        assert outcome.result.output == "it is 144"
    return told


async def test_a_listener_hears_of_everything_but_tokens_unless_it_names_kinds() -> None:
    heard: list[CallbackEvent] = []
    tokens: list[CallbackEvent] = []
    await run_with(Listener(heard.append), Listener(tokens.append, kinds=frozenset({"token"})))
    assert [one.kind for one in heard] == [
        *("model_start", "model_end", "agent_step"),
        *("tool_start", "tool_end"),
        *("model_start", "model_end", "agent_step"),
    ]
    assert [one.name for one in heard if one.kind == "agent_step"] == ["calculator", ""]
    assert {one.request_id for one in heard} == {"r1"}
    assert heard[4].detail == "144"
    assert "".join(one.detail or "" for one in tokens) == "it is 144"


# browser-use/browser-use#1100: a callback had to be a coroutine function, or the agent stuck.
async def test_a_listener_is_a_function_or_a_coroutine_function() -> None:
    heard: list[str] = []

    async def listen(told: CallbackEvent) -> None:
        await asyncio.get_running_loop().run_in_executor(None, heard.append, told.kind)

    await run_with(Listener(listen, kinds=frozenset({"tool_end"})))
    assert heard == ["tool_end"]


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({"names": ("search_*",)}, True),
        ({"names": ("book_*", "*_web")}, True),
        ({"names": ("book_*",)}, False),
        ({"tags": {"slow", "web"}}, True),
        ({"tags": {"slow"}}, False),
        ({"kinds": {"tool_start"}, "names": ("search_web",), "tags": {"web"}}, True),
        ({"kinds": {"tool_end"}}, False),
    ],
)
def test_events_are_filtered_by_kind_name_and_tag(filters: Any, *, fits: bool) -> None:
    listener = Listener(print, **filters)
    assert listener.wants(event(name="search_web", tags=("web", "fast"))) is fits


@pytest.mark.parametrize(
    "wrong",
    [{"kinds": {"tool_begin"}}, {"names": "search"}, {"queued_max": 0}],
)
def test_a_listener_that_could_hear_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises(Misconfigured):
        Listener(print, **wrong)


# strands-agents/harness-sdk#4338: what a hook raised behind a tool had the tool run again.
@pytest.mark.parametrize(
    "raised", [ZeroDivisionError(), SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt()]
)
async def test_a_listener_that_raises_fails_no_run_and_is_told_of_the_next_event(
    raised: BaseException,
) -> None:
    heard: list[str] = []

    def fails(told: CallbackEvent) -> None:
        heard.append(told.kind)
        raise raised

    async def fails_later(told: CallbackEvent) -> None:
        fails(told)

    one, other = Listener(fails, name="one"), Listener(fails_later, name="other")
    told = await run_with(one, other)
    assert told.failed == {"one": 8, "other": 8}
    assert len(heard) == 16


# langfuse/langfuse#8817: a slow callback held up the end of the run.
@pytest.mark.parametrize("kind", ["blocks", "hangs"])
async def test_a_listener_that_never_returns_holds_up_no_run_and_drops_what_has_no_room(
    kind: str,
) -> None:
    free = threading.Event()

    def blocks(_: CallbackEvent) -> None:
        free.wait()

    async def hangs(_: CallbackEvent) -> None:
        await asyncio.get_running_loop().run_in_executor(None, free.wait)

    slow = Listener(blocks if kind == "blocks" else hangs, name="slow", queued_max=2)
    try:
        told = await run_with(slow)
        # One is being heard, perhaps, and two wait.
        assert told.dropped["slow"] in {5, 6}
    finally:
        free.set()
