"""Steps of runs on real Kafka, as subscribers see them and as the how-to page reads them."""

from __future__ import annotations

import asyncio
import re
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from millstream.agents.loop.telling.events import CallbackEvent
from millstream.agents.loop.telling.listeners import Listener
from millstream.schemas.events import AgentResult, AgentToken
from millstream.schemas.steps import AgentStep
from millstream.schemas.topics import RESULTS, STEPS, TOKENS
from millstream.streams.bus import token_reader
from millstream.streams.bus.api import Delivery, EventFilter
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import Settings
from tests.harness.lanes import running_lanes, upstream
from tests.harness.step_runs import kinds, require_sound
from tests.services.users import acting_as
from tests.support import eventually

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "steps.md").read_text("utf-8")
SNIPPETS = dict(re.findall(r"<!-- snippet: ([a-z]+) -->\n```python\n(.*?)\n```", PAGE, re.DOTALL))

ASKED = {
    "user_id": "ada",
    "request_id": "r",
    "template": "react_agent",
    "input": 'call: calculator {"expression": "12*12"}; say: it is 144',
}


def runnable(snippet: str, printed: list[str], **names: Any) -> Callable[[], Awaitable[None]]:
    """Give a snippet of the page as a coroutine function; what it prints goes to `printed`."""
    body = textwrap.indent(SNIPPETS[snippet], "    ")
    known: dict[str, Any] = {
        **{name: getattr(token_reader, name) for name in token_reader.__all__},
        "AgentStep": AgentStep,
        "AgentResult": AgentResult,
        "EventFilter": EventFilter,
        "STEPS": STEPS,
        "RESULTS": RESULTS,
        "print": lambda *words: printed.append(" ".join(map(str, words))),
        **names,
    }
    exec(f"async def run():\n{body}", known)  # noqa: S102  our page
    run: Callable[[], Awaitable[None]] = known["run"]
    return run


@pytest.mark.promise("P3")
async def test_a_subscriber_sees_a_call_of_a_tool_and_a_reader_its_place_in_the_text(
    settings: Settings,
) -> None:
    heard: list[Any] = []

    def hear(delivery: Delivery) -> None:
        heard.append(delivery.event)

    shown: list[str] = []
    read: list[str] = []
    async with (
        running_lanes(settings),
        upstream(settings) as program,
        KafkaBus(acting_as(settings, "client")) as bus,
    ):
        await bus.subscribe(
            hear, topics=[STEPS, TOKENS, RESULTS], filter=EventFilter(user_id="ada")
        )
        await runnable("subscribe", shown, bus=bus)()
        await program.publish(ASKED, key=b"ada")
        async with asyncio.timeout(30):
            await runnable("read", read, bus=bus, request_id="r")()
        steps = await eventually(lambda: of(AgentStep, heard, 6))
        tokens = await eventually(lambda: of(AgentToken, heard, 1))
        (result,) = await eventually(lambda: of(AgentResult, heard, 1))
        await eventually(lambda: len(shown) == 7)

    require_sound(steps)
    asked = ["model_start", "model_end"]
    assert kinds(steps) == [*asked, "tool_start", "tool_end", *asked]
    assert result.steps == len(steps) == 6
    _, _, begun, over, *_ = steps
    assert (begun.name, begun.arguments) == ("calculator", '{"expression": "12*12"}')
    assert (over.call_id, over.result) == (begun.call_id, "144")
    assert over.duration_ms is not None
    assert [step.text_bytes for step in steps] == [0, 0, 0, 0, 0, len("it is 144")]
    assert "".join(token.text for token in tokens) == result.output

    assert "completed 6" in shown
    called, answered, *text, last = read
    assert called == '→ calculator {"expression": "12*12"}'
    assert answered == f"← 144 in {over.duration_ms} ms"
    assert ("".join(text), last) == ("it is 144", "completed with 6 steps")


def of(kind: type[Any], heard: list[Any], count: int) -> list[Any]:
    """Give the events of a kind once there are so many, nothing before."""
    found = [event for event in heard if isinstance(event, kind)]
    return found if len(found) >= count else []


def test_the_listener_that_the_page_shows_is_told_of_its_tools() -> None:
    heard: list[CallbackEvent] = []
    listener = eval(SNIPPETS["listener"], {"Listener": Listener, "count": heard.append})  # noqa: S307  our page
    assert listener.told_kinds == {"tool_end", "tool_error"}
    assert (listener.names, listener.tags) == (("search_*",), {"web"})


def test_every_snippet_of_the_page_has_a_name() -> None:
    assert len(re.findall("```python", PAGE)) == len(SNIPPETS)
