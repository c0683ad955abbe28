"""Whose words become tokens: the agent's own model calls, streamed or not, and no one else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.models.resolve import resolve_model
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import ToolRegistry
from millstream.schemas.runs.errors import InputTooLong
from tests.harness.agent_runs import Runs

OWN = AgentTemplate(name="own", kind="react", tools=("ask_model", "ask_agent"))


@tool
async def ask_model(question: str) -> str:
    """Ask a model."""
    answer = await resolve_model("scripted").ainvoke(question)
    return f"[{answer.text}]"


@tool
async def ask_agent(question: str) -> str:
    """Ask another agent."""
    agent = create_agent(resolve_model("scripted"))
    state = await agent.ainvoke({"messages": [("user", question)]})
    return f"[{state['messages'][-1].text}]"


class Silent(BaseChatModel):
    """Cannot stream."""

    @property
    def _llm_type(self) -> str:
        return "silent"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(messages[-1].text))])


class Blocks(Silent):
    """Streams content blocks, of which some are not text."""

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for block in (
            {"type": "reasoning", "reasoning": "hm", "index": 0},
            {"type": "text", "text": "so ", "index": 1},
            {"type": "text", "text": "be it", "index": 1},
        ):
            yield ChatGenerationChunk(message=AIMessageChunk(content=[block]))


def runs_with_tools() -> Runs:
    tools = ToolRegistry([ask_model, ask_agent])
    return Runs(AgentFactory(default_model="scripted", templates=[OWN], tools=tools))


def runs_of(model: BaseChatModel) -> Runs:
    return Runs(AgentFactory(resolve=lambda *_, **__: model))


def is_known(outcome: RunOutcome) -> bool:
    """Tell whether the provider reported all that was used."""
    return all(call.estimate_reason is None for call in outcome.calls)


async def test_what_a_tool_asks_of_a_model_counts_but_is_not_the_agents_voice() -> None:
    for name in ("ask_model", "ask_agent"):
        runs = runs_with_tools()
        script = f'call: {name} {{"question": "say: private words"}}; say: got {{tool_result}}'
        outcome = await runs.run(script, template="own")
        assert outcome.result.output == "got [private words]"
        assert outcome.result.usage.output_tokens == 5 + 2 + 3
        runs.assert_text_is_the_tokens(outcome)


async def test_a_model_that_cannot_stream_writes_one_token() -> None:
    runs = runs_of(Silent())
    outcome = await runs.run("all at once")
    assert [token.text for token in runs.tokens] == ["all at once"]
    runs.assert_text_is_the_tokens(outcome)


class Failing(Silent):
    """Fails as a provider's client does: with an HTTP status if the provider answered."""

    status_code: int | None

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise Answered(self.status_code) if self.status_code else ConnectionError


class Answered(Exception):
    """A provider's refusal."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


ATTEMPT_S = 600.0


@pytest.mark.parametrize(
    ("script", "cut_in_call", "known"),
    [
        ("say: all is told", None, True),
        ("retry: refused before a word", None, True),
        ("breaks: 2; tokens: 9", None, False),
        ("hang", 1, False),
        ("endless", 1, False),
        ('call: calculator {"expression": "1+1"}; say: x', None, True),
        ('call: calculator {"expression": "1+1"}; hang', 2, False),
    ],
)
async def test_usage_is_known_unless_a_call_was_cut_off(
    script: str, cut_in_call: int | None, *, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = AgentTemplate(
        name="own", kind="react", tools=("calculator",), attempt_timeout_s=ATTEMPT_S
    )
    factory = AgentFactory(default_model="scripted", templates=[own])
    loop, calls = asyncio.get_running_loop(), 0
    now = loop.time

    async def count(event: CallbackEvent) -> None:
        nonlocal calls
        calls += event.kind == "model_start"
        if event.kind == "model_start" and calls == cut_in_call:
            # The limit passes now: however slow the machine, neither before the call nor never.
            monkeypatch.setattr(loop, "time", lambda: now() + ATTEMPT_S)

    executor = AgentExecutor(factory, on_event=count)
    outcome = await Runs(factory).run(script, template="own", executor=executor)
    assert is_known(outcome) is known
    assert outcome.usage_known  # what is estimated counts in `usage`
    assert cut_in_call in {None, calls}


async def test_usage_is_not_known_where_a_provider_reports_none_or_does_not_answer() -> None:
    for model, known in (
        (Silent(), False),
        (Failing(status_code=429), True),
        (Failing(status_code=None), False),
    ):
        assert is_known(await runs_of(model).run("x")) is known


async def test_only_the_text_among_content_blocks_is_written() -> None:
    runs = runs_of(Blocks())
    outcome = await runs.run("x")
    assert outcome.result.output == "so be it"
    runs.assert_text_is_the_tokens(outcome)


async def test_words_before_a_tool_call_are_part_of_the_output_and_set_off() -> None:
    class Talkative(Silent):
        """Says something, calls a tool, says something else."""

        def bind_tools(self, *_: Any, **__: Any) -> Any:
            return self

        def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
            call = {"name": "calculator", "args": {"expression": "1+1"}, "id": "1"}
            message = (
                AIMessage("Let me see.", tool_calls=[call])
                if messages[-1].type == "human"
                else AIMessage(f"It is {messages[-1].text}.")
            )
            return ChatResult(generations=[ChatGeneration(message=message)])

    runs = runs_of(Talkative())
    outcome = await runs.run("1+1?", template="react_agent")
    assert outcome.result.output == "Let me see.\n\nIt is 2."
    runs.assert_text_is_the_tokens(outcome)


async def test_what_is_remembered_is_forgotten_rather_than_too_long_for_the_model() -> None:
    class Small(Silent):
        """Reads two messages at most: the system's and the human's."""

        def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
            if len(messages) > 2 or len(messages[-1].text) > 99:
                message = "too long"
                raise InputTooLong(message)
            return super()._generate(messages)

    runs = runs_of(Small())
    for turn, text in enumerate(("a", "b", "c"), start=1):
        outcome = await runs.run(text)
        assert (outcome.result.status, outcome.result.output) == ("completed", text)
        assert outcome.checkpoint is not None
        assert outcome.checkpoint.turn == turn
    outcome = await runs.run("x" * 100)
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "input_too_long"


async def test_a_model_that_writes_nothing_has_failed_and_is_not_remembered() -> None:
    runs = runs_of(Silent())
    outcome = await runs.run("")
    assert (outcome.result.status, outcome.retryable) == ("failed", True)
    assert outcome.checkpoint is None
    runs.assert_text_is_the_tokens(outcome)


async def test_a_model_that_a_tool_calls_is_asked_for_too() -> None:
    runs = runs_with_tools()
    asked = 0

    async def before_call() -> None:
        nonlocal asked
        asked += 1

    script = 'call: ask_model {"question": "say: x"}; say: got {tool_result}'
    await runs.run(script, template="own", before_call=before_call)
    assert asked == 4  # the agent's two, the tool, and the tool's own
