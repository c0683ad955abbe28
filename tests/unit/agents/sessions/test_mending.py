"""Earlier turns that a provider would refuse are mended when a session is opened."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from millstream.agents.sessions.mending import mended

ASKED = HumanMessage("x")
CALL: dict[str, Any] = {"name": "f", "args": {}, "id": "c1", "type": "tool_call"}
INVALID: dict[str, Any] = {
    "name": "f", "args": "{", "id": "c9", "error": None, "type": "invalid_tool_call"
}  # fmt: skip
RESULT = ToolMessage("1", tool_call_id="c1")


def kinds(messages: list[AnyMessage]) -> list[tuple[str, str]]:
    return [(message.type, message.text) for message in messages]


def test_turns_in_order_stay_as_they_are() -> None:
    turns = [ASKED, AIMessage("", tool_calls=[CALL]), RESULT, AIMessage("one")]
    assert all(one is was for one, was in zip(mended(turns), turns, strict=True))


@pytest.mark.parametrize(
    "empty",
    [
        AIMessage(""),
        AIMessage(" \n"),
        AIMessage([]),
        AIMessage([{"type": "text", "text": ""}]),
        AIMessage("", invalid_tool_calls=[INVALID]),
    ],
)
def test_an_answer_of_nothing_is_left_out(empty: AIMessage) -> None:
    assert kinds(mended([ASKED, empty, ASKED])) == [("human", "x"), ("human", "x")]


def test_a_call_without_its_result_gets_one_that_says_so() -> None:
    calls = [CALL, {**CALL, "id": "c2"}]
    told = mended([ASKED, AIMessage("", tool_calls=calls), RESULT, ASKED])
    assert [message.type for message in told] == ["human", "ai", "tool", "tool", "human"]
    assert [told[2].text, told[3].text] == ["1", "The result of this call was not kept."]


def test_a_result_without_its_call_is_left_out() -> None:
    other = ToolMessage("2", tool_call_id="c2")
    told = mended([RESULT, ASKED, AIMessage("hi", tool_calls=[CALL]), other, RESULT])
    assert kinds(told) == [("human", "x"), ("ai", "hi"), ("tool", "1")]


def test_an_answer_of_another_provider_keeps_its_text_and_calls_alone() -> None:
    said = AIMessage(
        [{"type": "thinking", "thinking": "so", "signature": "x"}, {"type": "text", "text": "hm"}],
        tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c1"}],
        additional_kwargs={"signatures": {}},
        response_metadata={"model_provider": "anthropic"},
    )
    result = ToolMessage("2", tool_call_id="c1")
    assert mended([said, result], "anthropic") == [said, result]
    assert mended([said, result]) == [said, result]
    told, _ = mended([said, result], "ollama")
    assert (told.content, told.additional_kwargs) == ("hm", {})
    assert isinstance(told, AIMessage)
    assert told.tool_calls == said.tool_calls


def test_calls_that_nobody_can_read_go_and_the_text_stays() -> None:
    told = mended([ASKED, AIMessage("well", invalid_tool_calls=[INVALID])])
    assert isinstance(told[1], AIMessage)
    assert (told[1].text, told[1].invalid_tool_calls) == ("well", [])
