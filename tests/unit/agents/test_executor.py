"""One attempt of one run, with real LangChain agents around the scripted model."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from millstream.agents.executor import AgentExecutor
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.templates.memory import LastTurns
from millstream.schemas.events import AgentToken
from tests import making
from tests.harness.agent_runs import ACCEPTED_AT_MS, NOW_MS, Runs, resolved, with_template
from tests.support import eventually

pytestmark = pytest.mark.promise("P3")

SUM = 'call: calculator {"expression": "2 + 3 * 4"}; say: it is {tool_result}'


async def test_a_run_answers_and_says_all_about_itself(runs: Runs) -> None:
    outcome = await runs.run("hello there", metadata={"trace": "7"})
    result = outcome.result
    assert (result.status, result.output, result.reason) == ("completed", "hello there", None)
    assert (result.template, result.template_version, result.model) == (
        "chat_agent",
        "1",
        "scripted",
    )
    assert (result.attempt, result.cost_micros) == (1000, 0)
    assert result.usage.output_tokens == 2
    assert result.usage.input_tokens > 2  # the system prompt is read too
    assert (result.accepted_at_ms, result.at_ms) == (ACCEPTED_AT_MS, NOW_MS)
    assert (result.started_at_ms, result.first_token_at_ms) == (NOW_MS, NOW_MS)
    assert result.source == making.SOURCE
    assert result.metadata == {"trace": "7"}
    runs.assert_text_is_the_tokens(outcome)


async def test_a_hundred_tokens_are_contiguous_and_make_up_the_output(runs: Runs) -> None:
    outcome = await runs.run("tokens: 101")
    assert outcome.result.output is not None
    assert outcome.result.output.split() == [f"t{index}" for index in range(101)]
    assert sum(token.tokens for token in runs.tokens) == 101
    assert runs.tokens[0].text == "t0"
    runs.assert_text_is_the_tokens(outcome)


async def test_a_second_run_of_a_session_sees_the_messages_of_the_first(runs: Runs) -> None:
    first = await runs.run("one two three", request_id="r1")
    second = await runs.run("four", request_id="r2")
    assert first.checkpoint is not None
    assert second.checkpoint is not None
    assert second.result.usage.input_tokens == first.result.usage.input_tokens + 3 + 1
    assert (first.checkpoint.turn, second.checkpoint.turn) == (1, 2)
    assert second.checkpoint.parent_id == first.checkpoint.checkpoint_id
    assert second.checkpoint.request_id == "r2"


async def test_a_session_goes_on_under_another_template(runs: Runs) -> None:
    await runs.run('call: Answer {"answer": "yes", "keywords": []}', template="structured_agent")
    outcome = await runs.run(SUM, template="react_agent")
    assert outcome.result.output == "it is 14"
    assert outcome.result.structured is None
    assert outcome.checkpoint is not None
    assert outcome.checkpoint.turn == 2


async def test_memory_is_bounded_by_turns() -> None:
    runs = with_template(memory=LastTurns(turns_max=1))
    spent = [(await runs.run("a b c", template="own")).result.usage.input_tokens for _ in range(4)]
    assert spent == [3, 9, 9, 9]


async def test_an_agent_calls_a_tool_and_answers_from_its_result(runs: Runs) -> None:
    outcome = await runs.run(SUM, template="react_agent")
    assert (outcome.result.status, outcome.result.output) == ("completed", "it is 14")
    runs.assert_text_is_the_tokens(outcome)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("nosuch {}", "not a valid tool"),
        ('calculator {"bla": 1}', "Field required"),
        ('calculator {"expression": "__import__(1)"}', "cannot calculate"),
    ],
)
async def test_a_wrong_tool_call_is_told_to_the_model(runs: Runs, call: str, words: str) -> None:
    outcome = await runs.run(f"call: {call}; say: {{tool_result}}", template="react_agent")
    assert outcome.result.status == "completed"
    assert words in (outcome.result.output or "")


async def test_a_structured_answer_is_an_object_of_the_schema(runs: Runs) -> None:
    answer = 'call: Answer {"answer": "yes", "keywords": ["a", "b"]}'
    outcome = await runs.run(answer, template="structured_agent")
    assert outcome.result.status == "completed"
    assert outcome.result.structured == {"answer": "yes", "keywords": ["a", "b"]}
    runs.assert_text_is_the_tokens(outcome)


async def test_an_input_with_half_a_surrogate_pair_is_answered(runs: Runs) -> None:
    outcome = await runs.run("odd \ud800 text")
    assert outcome.result.output == "odd ? text"
    assert outcome.result.model_dump_json()


async def test_runs_side_by_side_keep_their_texts_apart(runs: Runs) -> None:
    many = [Runs(runs.factory) for _ in range(20)]
    outcomes = await asyncio.gather(
        *(one.run(f"pace: 0.001; say: {index} is my number") for index, one in enumerate(many))
    )
    for index, (one, outcome) in enumerate(zip(many, outcomes, strict=True)):
        assert outcome.result.output == f"{index} is my number"
        one.assert_text_is_the_tokens(outcome)


async def test_events_tell_of_models_and_tools_in_order(runs: Runs) -> None:
    events: list[CallbackEvent] = []

    async def listen(event: CallbackEvent) -> None:
        events.append(event)

    await runs.run(
        SUM, template="react_agent", executor=AgentExecutor(runs.factory, on_event=listen)
    )
    assert [event.kind for event in events] == [
        "model_start",
        "model_end",
        "tool_start",
        "tool_end",
        "model_start",
        "model_end",
    ]
    assert events[2].name == "calculator"
    assert events[3].detail == "14"


async def test_a_listener_that_fails_never_fails_the_run(runs: Runs) -> None:
    async def listen(_: CallbackEvent) -> None:
        raise ZeroDivisionError

    outcome = await runs.run(
        SUM, template="react_agent", executor=AgentExecutor(runs.factory, on_event=listen)
    )
    assert outcome.result.output == "it is 14"


async def test_a_resolved_request_keeps_its_tenant_in_everything_it_leaves(runs: Runs) -> None:
    outcome = await runs.run(resolved("hello", tenant="acme"))
    assert outcome.checkpoint is not None
    assert {outcome.result.tenant, outcome.checkpoint.tenant, runs.tokens[0].tenant} == {"acme"}


async def test_an_announced_attempt_begins_with_an_empty_token_that_counts(runs: Runs) -> None:
    outcome = await runs.run("one two three", attempt=2000, announce=True)
    first = runs.tokens[0]
    assert (first.seq, first.text, first.tokens, first.attempt) == (0, "", 0, 2000)
    assert runs.tokens[1].text
    assert outcome.result.output
    assert outcome.result.last_seq == len(runs.tokens) - 1 >= 1
    runs.assert_text_is_the_tokens(outcome)


async def test_an_announced_attempt_that_fails_without_text_says_that_its_text_is_empty(
    runs: Runs,
) -> None:
    outcome = await runs.run("fail: no such luck", announce=True)
    assert (outcome.result.status, outcome.result.output) == ("failed", "")
    assert outcome.result.last_seq == 0
    assert outcome.result.first_token_at_ms is None
    runs.assert_text_is_the_tokens(outcome)


async def test_an_attempt_whose_deadline_has_passed_is_announced_all_the_same(runs: Runs) -> None:
    outcome = await runs.run("Hi", deadline_ms=1, announce=True)
    assert (outcome.result.status, outcome.result.last_seq) == ("expired", 0)
    runs.assert_text_is_the_tokens(outcome)


async def test_a_first_attempt_is_not_announced(runs: Runs) -> None:
    await runs.run("one two three")
    assert runs.tokens[0].text


class Emitting:
    """Takes tokens; stands for all that a run holds on to while it goes on."""

    async def emit(self, token: AgentToken) -> None:
        """Forget it."""


@pytest.mark.parametrize("text", ["hello", SUM])
async def test_a_run_that_is_over_leaves_nothing_to_the_garbage_collector(
    runs: Runs, text: str
) -> None:
    emitting = Emitting()
    held = weakref.ref(emitting)
    gc.collect()
    gc.disable()
    try:
        await runs.run(text, template="react_agent", emit=emitting.emit)
        del emitting
        await eventually(lambda: held() is None)
    finally:
        gc.enable()
