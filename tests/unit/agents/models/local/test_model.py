"""The local model, for real: these tests load 98 MB of weights and generate."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

from millstream.agents.models.local.engine import EngineSettings, LocalEngine
from millstream.agents.models.local.model import LocalChatModel
from millstream.schemas.errors import ModelFailed, Terminal
from millstream.schemas.runs.errors import InputTooLong

pytestmark = [pytest.mark.model, pytest.mark.timeout(60)]

_LONG_PROMPT = "many words in a long prompt " * 250
_MEASURED_TOKENS = 20
_TOKENS_HELD_MIN = 400
"""Fewer than a call writes that is asked for 2000 and not cancelled."""


@pytest.fixture
async def model() -> LocalChatModel:
    model = LocalChatModel(temperature=0.0, max_tokens=24, seed=7)
    await model.warm_up()
    return model


async def test_an_answer_is_streamed_with_the_usage_on_the_last_chunk(
    model: LocalChatModel,
) -> None:
    chunks = [chunk async for chunk in model.astream("Tell me about the sea.")]
    assert len([chunk for chunk in chunks if chunk.content]) >= 2
    assert chunks[-1].usage_metadata is not None
    assert chunks[-1].usage_metadata["input_tokens"] > 5
    assert 2 <= chunks[-1].usage_metadata["output_tokens"] <= 24
    assert chunks[-1].response_metadata["finish_reason"] in {"stop", "length"}


async def test_at_temperature_zero_all_ways_to_ask_give_one_answer(model: LocalChatModel) -> None:
    streamed = [str(chunk.content) async for chunk in model.astream("Name a colour.")]
    whole = await model.ainvoke("Name a colour.")
    assert "".join(streamed) == whole.content == model.invoke("Name a colour.").content


async def test_a_stop_string_ends_the_answer_before_it(model: LocalChatModel) -> None:
    whole = str((await model.ainvoke("Name a colour.")).content)
    mark = whole.split()[2]
    stopped = str((await model.ainvoke("Name a colour.", stop=[mark])).content)
    assert stopped == whole[: whole.index(mark)]


async def test_the_event_loop_goes_on_while_the_model_answers(model: LocalChatModel) -> None:
    loop = asyncio.get_running_loop()
    ticks_s: list[float] = []

    def tick() -> None:
        ticks_s.append(loop.time())
        loop.call_later(0.005, tick)

    tick()
    await model.ainvoke("Tell me about the sea.")
    longest_s = max(after - before for before, after in itertools.pairwise(ticks_s))
    assert len(ticks_s) > 10
    # Held up, it would stand still for the whole answer; a busy machine holds it up for less.
    assert longest_s < (ticks_s[-1] - ticks_s[0]) / 3


async def cpu_of_tokens_s(model: LocalChatModel, tokens: int) -> float:
    """Give the CPU time that so many tokens take, however busy the machine is."""
    began_s = time.process_time()
    answer = await model.ainvoke("Write a long story.", max_tokens=_MEASURED_TOKENS)
    assert answer.usage_metadata is not None
    return (time.process_time() - began_s) / answer.usage_metadata["output_tokens"] * tokens


@pytest.mark.parametrize("prompt", ["Write a long story.", _LONG_PROMPT])
async def test_cancelling_a_call_frees_the_engine_for_the_next(
    model: LocalChatModel, prompt: str
) -> None:
    # Uncancelled, either would hold the engine for longer.
    limit_s = await cpu_of_tokens_s(model, _TOKENS_HELD_MIN)
    endless = asyncio.create_task(model.ainvoke(prompt, max_tokens=2000))
    await asyncio.wait([endless], timeout=0.3)
    endless.cancel()
    began_s = time.process_time()
    answer = await model.ainvoke("Say hi.", max_tokens=2)
    assert time.process_time() - began_s < limit_s
    assert endless.cancelled()
    assert answer.usage_metadata is not None


async def test_closing_the_stream_early_frees_the_engine(model: LocalChatModel) -> None:
    limit_s = await cpu_of_tokens_s(model, _TOKENS_HELD_MIN)
    story = cast("AsyncGenerator[Any]", model.astream("Write a long story.", max_tokens=2000))
    async with aclosing(story):
        await anext(story)
    began_s = time.process_time()
    await model.ainvoke("Say hi.", max_tokens=2)
    assert time.process_time() - began_s < limit_s


async def test_concurrent_calls_all_finish_in_order_of_arrival(model: LocalChatModel) -> None:
    finished: list[int] = []

    async def ask(number: int) -> None:
        await model.ainvoke(f"Say {number}.", max_tokens=4)
        finished.append(number)

    await asyncio.gather(*(ask(number) for number in range(4)))
    assert finished == [0, 1, 2, 3]


async def test_a_conversation_longer_than_the_context_is_a_typed_error(
    model: LocalChatModel,
) -> None:
    with pytest.raises(InputTooLong, match=r"50\d\d tokens.* holds 2048"):
        await model.ainvoke("word " * 5000)


async def test_text_that_is_not_valid_unicode_is_answered(model: LocalChatModel) -> None:
    assert (await model.ainvoke("a \ud800 b", max_tokens=2)).usage_metadata is not None


async def test_a_request_the_engine_refuses_is_terminal(model: LocalChatModel) -> None:
    with pytest.raises(Terminal, match="response_format"):
        await model.ainvoke("hi", response_format={"type": "no such type"})


async def test_an_answer_can_be_held_to_a_schema(model: LocalChatModel) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    }
    answer = await model.ainvoke(
        "What is the capital of France?",
        response_format={"type": "json_schema", "json_schema": {"schema": schema}},
        max_tokens=60,
    )
    assert "Paris" in str(answer.content)


async def test_an_agent_streams_the_models_tokens(model: LocalChatModel) -> None:
    agent = create_agent(model, [])
    question = HumanMessage("Tell me about the sea.")
    parts = agent.astream({"messages": [question]}, stream_mode="messages")
    tokens = [part async for part in parts]
    assert len(tokens) >= 2


async def test_calls_beyond_the_bound_are_refused_as_retryable() -> None:
    engine = LocalEngine(EngineSettings(calls_open_max=0))
    with pytest.raises(ModelFailed, match="busy"):
        await LocalChatModel(engine=engine).ainvoke("hi")
