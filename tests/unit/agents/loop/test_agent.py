"""One call of a model without LangGraph's loop is what the loop makes of it, turn by turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory, RunPlan
from millstream.agents.loop.agent import Agent, LoopAgent, SingleCallAgent
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.sessions.checkpointer import RunCheckpointer
from millstream.agents.templates.memory import LastTurns
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.events import AgentToken
from millstream.schemas.runs.errors import InputTooLong
from tests.harness.agent_runs import NOW_MS, Runs

SUM = 'call: calculator {"expression": "2 + 3 * 4"}; say: it is {tool_result}'
ANSWER = 'call: Answer {"answer": "yes", "keywords": ["a"]}'
BARE = AgentTemplate(name="bare", memory=LastTurns(turns_max=2, turns_keep=2))
ROOMY = BUILT_IN_TEMPLATES[0].model_copy(
    update={"name": "roomy", "memory": LastTurns(tokens_max=100_000)}
)

Way = Callable[[int], bool]
"""Whether the run of a turn goes through LangGraph's loop."""


class Ways(AgentFactory):
    """Sends a chat agent's runs through LangGraph's loop where it is told to."""

    through_loop = False

    def create(self, plan: RunPlan) -> Agent:
        agent = super().create(plan)
        if self.through_loop and isinstance(agent, SingleCallAgent):
            return LoopAgent(agent.graph)
        return agent


class Forgetful(BaseChatModel):
    """Takes three messages and no more."""

    @property
    def _llm_type(self) -> str:
        return "forgetful"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        if len(messages) > 3:
            message = "too long"
            raise InputTooLong(message)
        usage = {"input_tokens": len(messages), "output_tokens": 1, "total_tokens": 0}
        answer = AIMessage(f"saw {len(messages)}", usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=answer)])


@dataclass
class Told:
    """All that a run told, but for ids and times that are its own."""

    result: Any
    flags: tuple[bool, bool, bool]
    tokens: list[AgentToken]
    calls: int
    steps: list[tuple[str, str | None, str | None]]
    turn: int | None
    state: list[dict[str, Any]]


@dataclass
class Session:
    """A session, each of whose turns is run in one of the two ways."""

    way: Way
    factory: Ways = field(
        default_factory=lambda: Ways(
            default_model="scripted", templates=(*BUILT_IN_TEMPLATES, BARE, ROOMY)
        )
    )

    async def play(self, turns: Sequence[tuple[str, str]]) -> list[Told]:
        """Run the turns, each a template and an input."""
        runs = Runs(self.factory, coalesce_s=60)
        return [
            await self._turn(runs, index, template, text)
            for index, (template, text) in enumerate(turns)
        ]

    async def _turn(self, runs: Runs, index: int, template: str, text: str) -> Told:
        self.factory.through_loop = self.way(index)
        calls = 0
        steps: list[CallbackEvent] = []

        async def before_call() -> None:
            nonlocal calls
            calls += 1

        async def listen(event: CallbackEvent) -> None:
            steps.append(event)

        executor = AgentExecutor(
            self.factory, coalesce_s=60, clock_ms=lambda: NOW_MS, on_event=listen
        )
        outcome = await runs.run(
            text,
            template=template,
            request_id=f"r{index}",
            executor=executor,
            before_call=before_call,
        )
        runs.assert_text_is_the_tokens(outcome)
        return Told(
            outcome.result.model_dump(),
            (outcome.retryable, outcome.suspended, outcome.usage_known),
            [token.model_copy() for token in runs.tokens],
            calls,
            [(step.kind, step.name, step.detail) for step in steps],
            None if outcome.checkpoint is None else outcome.checkpoint.turn,
            [_without_id(message) for message in messages_in(outcome)],
        )


def messages_in(outcome: RunOutcome) -> Sequence[AnyMessage]:
    return () if outcome.checkpoint is None else RunCheckpointer(outcome.checkpoint, ROOMY).messages


def _without_id(message: AnyMessage) -> dict[str, Any]:
    assert message.id
    return message.model_dump(exclude={"id"})


INPUTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "say: hello there",
            "tokens: 30",
            "say: {input}",
            "breaks: 3; tokens: 9",
            "fail: no such luck",
            "retry: later",
            SUM,
            "call: calculator nonsense",
            'call: nosuch {"a": 1} + calculator {"expression": "1"}; say: {tool_result}',
            ANSWER,
        ]
    ),
)
TURNS = st.lists(
    st.tuples(
        st.sampled_from(["chat_agent", "chat_agent", "bare", "react_agent", "structured_agent"]),
        INPUTS,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40)
@given(turns=TURNS, odd=st.booleans())
def test_both_ways_tell_the_same_and_either_goes_on_from_the_other(
    turns: list[tuple[str, str]], *, odd: bool
) -> None:
    in_loop = asyncio.run(Session(lambda _: True).play(turns))
    assert asyncio.run(Session(lambda _: False).play(turns)) == in_loop
    assert asyncio.run(Session(lambda index: index % 2 == odd).play(turns)) == in_loop


async def test_a_session_that_grew_too_long_is_forgotten_in_both_ways() -> None:
    model = Forgetful()
    turns = [("chat_agent", f"question {index}") for index in range(4)]

    def factory() -> Ways:
        return Ways(resolve=lambda *_, **__: model)

    in_loop = await Session(lambda _: True, factory()).play(turns)
    assert [told.result["status"] for told in in_loop] == ["completed"] * 4
    assert await Session(lambda _: False, factory()).play(turns) == in_loop


@pytest.mark.parametrize(
    ("template", "way"),
    [("chat_agent", SingleCallAgent), ("react_agent", LoopAgent), ("structured_agent", LoopAgent)],
)
def test_only_an_agent_of_one_plain_call_does_without_the_loop(
    template: str, way: type[Agent]
) -> None:
    factory = AgentFactory(default_model="scripted")
    template_of = {one.name: one for one in factory.list()}[template]
    plan = RunPlan(template_of, "scripted", input_tokens_max=1, output_tokens_max=1)
    assert isinstance(factory.create(plan), way)
