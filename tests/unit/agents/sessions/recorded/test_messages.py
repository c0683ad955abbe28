"""Messages of a journal and a session: read back as they were, to the byte, or as the nearest."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    messages_from_dict,
    messages_to_dict,
)

from millstream.agents.sessions.recorded.messages import as_json, from_json, nearest
from millstream.schemas.errors import Terminal
from millstream.schemas.journal.errors import JournalUnreadable
from tests.harness.odd_values import Colour, Order, messages, over_the_wire, same


def read_back(message: BaseMessage) -> BaseMessage:
    return from_json(over_the_wire(as_json(message)))


def kept_as_it_is(message: BaseMessage) -> bool:
    return nearest(message) is message and same(read_back(message), message)


@given(messages)
def test_a_message_is_read_back_as_its_nearest_form(message: BaseMessage) -> None:
    assert same(read_back(message), nearest(message))


@given(messages)
def test_the_nearest_form_of_a_message_is_its_own(message: BaseMessage) -> None:
    once = nearest(message)
    assert nearest(once) is once
    assert same(read_back(once), once)


@given(messages)
def test_a_message_that_is_written_keeps_its_kind(message: BaseMessage) -> None:
    assert as_json(message)["type"] in {"ai", "human", "system", "chat", "tool"}
    assert isinstance(message, type(nearest(message)))


SIGNATURE = b64encode(bytes(range(256))).decode()

KEPT: dict[str, BaseMessage] = {
    "Anthropic's thinking blocks": AIMessage(
        [
            {"type": "thinking", "thinking": " so\u2028 \n", "signature": SIGNATURE},
            {"type": "redacted_thinking", "data": SIGNATURE},
            {"type": "text", "text": "é", "index": 0},
            {"type": "tool_use", "id": "t", "name": "pay", "input": {"eur": 1.0}},
        ],
        tool_calls=[{"name": "pay", "args": {"eur": 1.0}, "id": "t", "type": "tool_call"}],
        response_metadata={"model_provider": "anthropic", "stop_reason": "tool_use"},
    ),
    # agentscope-java#2910: signatures in bytes came back as text, and the provider refused them.
    "Gemini's signatures in bytes": AIMessage(
        "",
        additional_kwargs={"__gemini_function_call_thought_signatures__": {"c": b"\x12\xff\x00"}},
    ),
    "OpenAI's encrypted reasoning": AIMessage(
        [{"type": "reasoning", "id": "rs_1", "encrypted_content": SIGNATURE, "summary": []}]
    ),
    "an answer with every field": AIMessage(
        "hi",
        id="run-1",
        name="agent",
        usage_metadata={
            "input_tokens": 1,
            "output_tokens": 2,
            "total_tokens": 3,
            "output_token_details": {"reasoning": 1},
        },
        invalid_tool_calls=[
            {"name": "f", "args": "{", "id": None, "error": None, "type": "invalid_tool_call"}
        ],
    ),
    "a call without an id": AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": None}]),
    # An integer that LangGraph's checkpoints have no room for.
    "integers beyond 64 bits": AIMessage(
        "", tool_calls=[{"name": "f", "args": {"order": 99999999999999999999}, "id": "c"}]
    ),
    "numbers that JSON cannot say": ToolMessage(
        "x", tool_call_id="c", artifact=[float("nan"), float("-inf"), -0.0, 5e-324]
    ),
    # aegra#370: such an answer was lost in a database's JSON.
    "a null character": HumanMessage("a\x00b"),
    "a schema with references": ToolMessage(
        [{"$ref": "#/$defs/a"}], tool_call_id="c", artifact={"$bytes": "no", "$dict": [1]}
    ),
    "fields of another version": HumanMessage("x", more={"a": (1, b"")}, cls=1, _fields_set=2),
    "an error of a tool": ToolMessage("no", tool_call_id="", status="error", name="f"),
    "a prompt in blocks": SystemMessage([{"type": "text", "text": "x", "cache_control": {}}]),
    "nothing": AIMessage(""),
}


@pytest.mark.parametrize("kind", KEPT)
def test_a_message_is_read_back_as_it_was(kind: str) -> None:
    assert kept_as_it_is(KEPT[kind])


def test_a_message_takes_no_more_room_than_what_is_in_it() -> None:
    assert as_json(AIMessage("hi", id="a")) == {"type": "ai", "content": "hi", "id": "a"}


def test_calls_that_an_answer_was_checked_to_be_without_do_not_come_back() -> None:
    raw = {"id": "c", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
    answer = AIMessage("").model_copy(update={"additional_kwargs": {"tool_calls": [raw]}})
    # As LangChain's own reader has it.
    (theirs,) = messages_from_dict(messages_to_dict([answer]))
    assert isinstance(theirs, AIMessage)
    assert theirs.tool_calls
    ours = read_back(answer)
    assert isinstance(ours, AIMessage)
    assert ours.tool_calls == []
    assert kept_as_it_is(answer)


def test_what_a_provider_puts_beside_a_calls_arguments_stays() -> None:
    call = {"name": "f", "args": {}, "id": "c", "type": "tool_call", "extras": {"signature": "s"}}
    answer = AIMessage("").model_copy(update={"tool_calls": [call]})
    (theirs,) = messages_from_dict(messages_to_dict([answer]))
    assert isinstance(theirs, AIMessage)
    assert theirs.tool_calls != [call]
    assert kept_as_it_is(answer)


def test_what_is_written_shares_nothing_with_the_message() -> None:
    answer = AIMessage([{"type": "text", "text": "a"}], additional_kwargs={"k": [1]})
    written = as_json(answer)
    before = json.dumps(written)
    answer.content[0]["text"] = "b"  # type: ignore[index]
    answer.additional_kwargs["k"].append(2)
    assert json.dumps(written) == before


class Rows(ToolMessage):
    """A message of an app's own type, with a field of its own."""

    rows: int = 3


NEAREST: dict[str, tuple[BaseMessage, BaseMessage]] = {
    "a chunk": (
        AIMessageChunk(
            content="a", tool_call_chunks=[{"name": "f", "args": "{}", "id": "c", "index": 0}]
        ),
        AIMessage("a", tool_calls=[{"name": "f", "args": {}, "id": "c"}]),
    ),
    "an app's own type": (
        Rows(content="x", tool_call_id="c"),
        ToolMessage("x", tool_call_id="c", rows=3),
    ),
    "halves of characters": (
        AIMessage("a\ud83d", id="\ud83d\ude00", additional_kwargs={"\udc00": "\ud800"}),
        AIMessage("a?", id="😀", additional_kwargs={"?": "?"}),
    ),
    # langflow#13633: whatever stands in what is for programs must not fail the run.
    "objects in what is for programs": (
        AIMessage("x", response_metadata={"raw": object(), "c": Colour.RED, "o": Order()}),
        AIMessage(
            "x",
            response_metadata={
                "c": "red",
                "o": {"number": 7, "paid": float("inf")},
            },
        ),
    ),
    "an artifact that has no JSON": (
        ToolMessage("x", tool_call_id="c", artifact=len),
        ToolMessage("x", tool_call_id="c"),
    ),
    "no content": (
        AIMessage("").model_copy(update={"content": None}),
        AIMessage(""),
    ),
    "content of other kinds": (
        ToolMessage("", tool_call_id="c").model_copy(update={"content": (1, {"a": 1}, Colour.RED)}),
        ToolMessage(["1", {"a": 1}, "red"], tool_call_id="c"),
    ),
    "usage that is none": (
        AIMessage("").model_copy(update={"usage_metadata": {"input_tokens": "many"}}),
        AIMessage(""),
    ),
    "calls that are none": (
        AIMessage("").model_copy(
            update={"tool_calls": [{"name": None, "args": {}, "id": "c"}, 5], "name": 7}
        ),
        AIMessage("", name="7"),
    ),
    "a call's id that is none": (
        ToolMessage("", tool_call_id="c").model_copy(update={"tool_call_id": None, "status": "?"}),
        ToolMessage("", tool_call_id="", status="error"),
    ),
}


@pytest.mark.parametrize("kind", NEAREST)
def test_a_message_that_cannot_be_written_is_read_as_the_nearest(kind: str) -> None:
    message, expected = NEAREST[kind]
    assert same(nearest(message), expected)
    assert same(read_back(message), expected)


def test_a_message_of_ten_megabytes_is_written_and_read() -> None:
    image = b64encode(bytes(7_500_000)).decode()
    message = HumanMessage(
        [{"type": "image", "base64": image}, {"type": "text", "text": "é" * 1_000}]
    )
    assert kept_as_it_is(message)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (None, "no object"),
        ([], "no object"),
        ({"$message": {}}, "no object"),
        ({}, "type None"),
        ({"type": "oracle", "content": "x"}, "newer version"),
        ({"type": ["ai"], "content": "x"}, "not known"),
        ({"type": "ai"}, "'content' is missing"),
        ({"type": "ai", "content": 5}, "'content' holds"),
        ({"type": "ai", "content": [5]}, "'content' holds"),
        ({"type": "ai", "content": [{"$bytes": ""}]}, "'content' holds"),
        ({"type": "ai", "content": "", "tool_calls": [{"name": "f"}]}, "'tool_calls' holds"),
        ({"type": "ai", "content": "", "usage_metadata": {}}, "'usage_metadata' holds"),
        ({"type": "ai", "content": "", "additional_kwargs": {"$new": 1}}, "'additional_kwargs'"),
        ({"type": "ai", "content": "", "response_metadata": {"a": {"$new": 1}}}, "newer version"),
        ({"type": "tool", "content": ""}, "'tool_call_id' is missing"),
        ({"type": "tool", "content": "", "tool_call_id": None}, "'tool_call_id' holds"),
        ({"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {}}, "not known"),
    ],
)
def test_what_is_no_message_is_not_read(written: Any, why: str) -> None:
    with pytest.raises(JournalUnreadable, match=why) as raised:
        from_json(written)
    assert isinstance(raised.value, Terminal)
    assert raised.value.code == "journal_unreadable"


def test_a_record_that_is_nested_without_end_is_not_read() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    with pytest.raises(JournalUnreadable):
        from_json({"type": "ai", "content": "", "more": deep})
