"""The scripted model, by itself and in a real agent loop."""

from __future__ import annotations

import asyncio

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool

from millstream.agents.models.scripted.model import ScriptedChatModel
from millstream.agents.models.scripted.script import Call, Hang, Say, ToolUse, Turn
from millstream.schemas.errors import ModelFailed, Terminal


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def _chunks(text: str, model: ScriptedChatModel | None = None) -> list[AIMessageChunk]:
    return [chunk async for chunk in (model or ScriptedChatModel()).astream(text)]


async def test_text_is_streamed_a_word_at_a_time_with_the_usage_on_the_last_chunk() -> None:
    chunks = await _chunks("say: hello  big world")
    assert [chunk.content for chunk in chunks] == ["hello", "  big", " world"]
    assert [chunk.usage_metadata is None for chunk in chunks] == [True, True, False]
    assert chunks[-1].usage_metadata == {
        "input_tokens": 4,
        "output_tokens": 3,
        "total_tokens": 7,
    }


async def test_tokens_cue_streams_exactly_that_many_tokens() -> None:
    chunks = await _chunks("tokens: 101")
    assert len(chunks) == 101
    assert chunks[-1].content == " t100"


@pytest.mark.parametrize("text", ["What is Kafka?", "two\n lines ", "echo"])
async def test_a_message_without_a_cue_is_echoed(text: str) -> None:
    assert (await ScriptedChatModel().ainvoke(text)).content == text


async def test_streamed_and_whole_and_synchronous_answers_are_the_same() -> None:
    model = ScriptedChatModel()
    whole = await model.ainvoke("say: one two three")
    streamed = "".join(str(chunk.content) for chunk in await _chunks("say: one two three"))
    assert whole.content == streamed == model.invoke("say: one two three").content
    assert whole.usage_metadata is not None


async def test_a_real_agent_loop_calls_the_tool_and_tells_its_result() -> None:
    agent = create_agent(ScriptedChatModel(), [add])
    text = 'call: add {"a": 1, "b": 2}; say: it is {tool_result}'
    state = await agent.ainvoke({"messages": [HumanMessage(text)]})
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert state["messages"][-1].content == "it is 3"


async def test_parallel_tool_calls_are_both_answered_before_the_next_turn() -> None:
    agent = create_agent(ScriptedChatModel(), [add])
    text = 'call: add {"a": 1, "b": 2} + add {"a": 3, "b": 4}'
    state = await agent.ainvoke({"messages": [HumanMessage(text)]})
    assert [message.content for message in state["messages"][2:]] == ["3", "7", "7"]


async def test_a_new_human_message_starts_the_script_anew() -> None:
    agent = create_agent(ScriptedChatModel(), [add])
    text = 'call: add {"a": 1, "b": 2}; say: first'
    state = await agent.ainvoke({"messages": [HumanMessage(text)]})
    again = await agent.ainvoke({"messages": [*state["messages"], HumanMessage(text)]})
    calls = [m.tool_calls[0]["id"] for m in again["messages"] if m.type == "ai" and m.tool_calls]
    assert len(calls) == len(set(calls)) == 2
    assert again["messages"][-1].content == "first"


async def test_the_turn_is_found_from_the_conversation_so_a_resumed_run_goes_on() -> None:
    script = (Turn(Call((ToolUse("add", {"a": 1, "b": 2}),))), Turn(Say("got {tool_result}")))
    history = [
        HumanMessage("anything"),
        AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1, "b": 2}, "id": "x"}]),
        ToolMessage("3", tool_call_id="x"),
    ]
    assert (await ScriptedChatModel(script=script).ainvoke(history)).content == "got 3"


async def test_many_runs_share_one_model() -> None:
    model = ScriptedChatModel()
    answers = await asyncio.gather(*(model.ainvoke(f"say: answer {n}") for n in range(50)))
    assert [answer.content for answer in answers] == [f"answer {n}" for n in range(50)]


async def test_fail_is_terminal_and_retry_is_retryable() -> None:
    with pytest.raises(Terminal, match="no luck"):
        await ScriptedChatModel().ainvoke("fail: no luck")
    with pytest.raises(ModelFailed, match="later"):
        await ScriptedChatModel().ainvoke("retry: later")


async def test_a_break_comes_after_the_tokens_before_it() -> None:
    answer = ScriptedChatModel().astream("breaks: 2; tokens: 5")
    assert [(await anext(answer)).content, (await anext(answer)).content] == ["t0", " t1"]
    with pytest.raises(ModelFailed, match="after 2 tokens"):
        await anext(answer)


@pytest.mark.parametrize("text", ["hang", "endless", "slow: 3600; say: late"])
async def test_a_step_without_end_is_cancelled_at_once(text: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await _chunks(text)


async def test_delays_let_the_loop_run_and_pace_the_tokens() -> None:
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    await asyncio.gather(*(_chunks("slow: 0.05; pace: 0.05; tokens: 3") for _ in range(20)))
    assert 0.14 <= loop.time() - started_s < 20 * 0.15


async def test_a_script_given_to_the_model_wins_over_the_input() -> None:
    model = ScriptedChatModel(script=(Turn(Say("mine")),))
    assert (await model.ainvoke("say: yours")).content == "mine"


async def test_stop_strings_end_the_text() -> None:
    answer = await ScriptedChatModel().ainvoke("say: one two END three", stop=["END"])
    assert answer.content == "one two "


async def test_a_hanging_agent_is_cancelled() -> None:
    agent = create_agent(ScriptedChatModel(script=(Turn(Hang()),)), [add])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await agent.ainvoke({"messages": [HumanMessage("go")]})


@pytest.mark.parametrize("placeholder", ["{input}", "{tool_result}"])
async def test_what_is_to_be_said_is_bounded_however_often_it_repeats_the_input(
    placeholder: str,
) -> None:
    script = (Turn(Say(placeholder * 20_000)),)
    asked = [HumanMessage("x" * 200_000), ToolMessage("y" * 200_000, tool_call_id="1")]
    with pytest.raises(Terminal, match="4,000,000,000 characters, more than 1,000,000"):
        await ScriptedChatModel(script=script).ainvoke(asked)


async def test_a_script_has_so_many_tokens_in_all() -> None:
    assert len(await _chunks("tokens: 99999; tokens: 1")) == 99_999
    with pytest.raises(Terminal, match="a number from 0 to 1 was expected"):
        await _chunks("tokens: 99999; " + "tokens: 100000; " * 1000)
