"""The built-in templates with the local model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
from langchain_core.tools import BaseTool, StructuredTool

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.models.local.model import LocalChatModel
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import ToolRegistry, built_in_tools
from tests.harness.agent_runs import Runs, with_template

pytestmark = pytest.mark.model


@pytest.fixture
def runs() -> Runs:
    return Runs(AgentFactory())


async def test_the_local_model_chats_token_by_token(runs: Runs) -> None:
    outcome = await runs.run("Name one colour of the sky.")
    assert outcome.result.status == "completed", outcome.result.reason
    assert outcome.result.model == "local"
    assert outcome.result.usage.input_tokens > 10
    assert len(runs.tokens) > 1
    runs.assert_text_is_the_tokens(outcome)


async def test_the_local_model_is_held_to_a_schema(runs: Runs) -> None:
    outcome = await runs.run("What is a river?", template="structured_agent")
    assert outcome.result.status == "completed", outcome.result.reason
    assert outcome.result.structured is not None
    assert set(outcome.result.structured) == {"answer", "keywords"}
    runs.assert_text_is_the_tokens(outcome)


class Eager(LocalChatModel):
    """The local model, which has to call a tool as long as any are offered."""

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Any:
        return super().bind_tools(tools, tool_choice=tool_choice or "any", **kwargs)


@dataclass
class Watched:
    """Runs of a react agent with a local model, and the names of the tools that they called."""

    runs: Runs
    executor: AgentExecutor
    called: list[str]

    async def run(self, text: str, **fields: Any) -> RunOutcome:
        self.called.clear()
        outcome = await self.runs.run(text, executor=self.executor, **fields)
        self.runs.assert_text_is_the_tokens(outcome)
        return outcome


def watched(model: type[LocalChatModel], *tools: BaseTool, **template: Any) -> Watched:
    called: list[str] = []

    async def note(event: CallbackEvent) -> None:
        if event.kind == "tool_start":
            called.append(event.name or "")

    def resolve(_name: str, **params: Any) -> LocalChatModel:
        return model(temperature=0.0, seed=7, **params)

    registry = ToolRegistry((*built_in_tools(), *tools))
    names = ("calculator", "current_time", *(tool.name for tool in tools))
    own = AgentTemplate(name="own", kind="react", tools=names, **template)
    templates = (*BUILT_IN_TEMPLATES, own)
    factory = AgentFactory(templates=templates, tools=registry, resolve=resolve)
    return Watched(Runs(factory), AgentExecutor(factory, on_event=note), called)


async def test_the_local_model_calls_tools_and_answers_with_their_results() -> None:
    one = watched(LocalChatModel)
    plain = await one.run("What is the capital of France?", template="react_agent")
    assert plain.result.status == "completed", plain.result.reason
    assert len(one.runs.tokens) > 1
    one = watched(LocalChatModel)
    outcome = await one.run("Use the calculator: 12*12", template="react_agent")
    assert outcome.result.status == "completed", outcome.result.reason
    assert "calculator" in one.called
    assert outcome.result.finish_reason in {"stop", "length"}
    # Of all its calls, and none of their tokens is shown.
    assert len(outcome.calls) >= 2
    assert outcome.result.usage.input_tokens == sum(
        call.usage.input_tokens for call in outcome.calls
    )
    assert not any(call.estimate_reason for call in outcome.calls)
    assert outcome.result.output
    assert "{" not in outcome.result.output


async def test_a_model_that_only_calls_tools_is_made_to_answer_in_the_end() -> None:
    # deer-flow's issue 1055: the same call until the limit, and then no answer.
    for calls_max in (1, 2, 8):
        one = watched(Eager, model_calls_max=calls_max)
        outcome = await one.run("Hello", template="own")
        assert outcome.result.status == "completed", outcome.result.reason
        assert outcome.result.output
        assert "{" not in outcome.result.output
        assert 1 <= len(outcome.calls) <= calls_max
        assert len(one.called) == len(outcome.calls) - 1


async def test_no_call_is_made_with_arguments_that_its_tool_does_not_take() -> None:
    made: list[Any] = []

    def refund(order: str, cents: int, why: Literal["late", "broken"]) -> str:
        """Refund an order."""
        made.append((order, cents, why))
        return "done"

    tool = StructuredTool.from_function(refund, name="refund")
    one = watched(Eager, tool, model_calls_max=4)
    outcome = await one.run("Use refund.", template="own")
    assert outcome.result.status == "completed", outcome.result.reason
    assert made
    for order, cents, why in made:
        assert isinstance(order, str)
        assert isinstance(cents, int)
        assert why in {"late", "broken"}


async def test_a_call_of_the_local_model_that_its_limit_cuts_is_not_made() -> None:
    # strands' harness-sdk, pull request 4309: it was made with empty arguments.
    one = watched(Eager, output_tokens_max=6)
    outcome = await one.run("Use the calculator: 12*12", template="own")
    assert outcome.result.status == "failed"
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "tool_call_cut"
    assert one.called == []


async def test_a_session_goes_on_after_tool_calls_of_the_local_model() -> None:
    one = watched(LocalChatModel)
    first = await one.run("Use current_time.", template="react_agent")
    second = await one.run("Thank you.", template="chat_agent")
    assert [each.result.status for each in (first, second)] == ["completed", "completed"]
    assert second.result.usage.input_tokens > first.calls[0].usage.input_tokens / 2


async def test_a_long_session_stays_within_the_models_context(runs: Runs) -> None:
    for index in range(12):
        await runs.run("word " * 100 + str(index), model="scripted")
    outcome = await runs.run("Say hello.")
    assert 300 < outcome.result.usage.input_tokens < 1500
    assert outcome.result.status == "completed", outcome.result.reason


async def test_a_structured_agent_with_tools_answers_by_its_schema() -> None:
    runs = with_template(
        kind="structured",
        tools=["calculator"],
        model_calls_max=3,
        output_tokens_max=64,
        response_format={
            "type": "object",
            "properties": {"n": {"type": "number"}},
            "required": ["n"],
            "additionalProperties": False,
        },
    )
    outcome = await runs.run("What is 17 * 23?", template="own", model="local")
    assert outcome.result.structured is not None
    assert set(outcome.result.structured) == {"n"}
