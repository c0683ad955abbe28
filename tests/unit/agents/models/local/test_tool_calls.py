"""Tool calls of the local model, for real: whatever the schema, a call has its form."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage

from millstream.agents.models.local.model import LocalChatModel, _openai_messages
from millstream.agents.models.local.schema_form import form_of
from millstream.agents.models.local.tool_calls import HeldAnswer
from millstream.schemas.errors import Terminal

pytestmark = [pytest.mark.model, pytest.mark.timeout(60)]


def offered(name: str, parameters: dict[str, Any] | None) -> dict[str, Any]:
    function = {"name": name, "description": "Does it"}
    if parameters is not None:
        function["parameters"] = parameters  # type: ignore[assignment]
    return {"type": "function", "function": function}


def schema(of: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": of}, "required": ["x"], **more}


NUMBER = schema({"type": "integer"})
TIME = offered("current_time", {"type": "object", "properties": {}})
SUM = offered("calculator", schema({"type": "string"}))

SCHEMAS = {
    "none": None,
    "no properties": {"type": "object"},
    "a string without end": schema({"type": "string"}),
    "a longer string than is written": schema({"type": "string", "minLength": 130}),
    # llama.cpp's issue 27580: a class in a pattern made the whole grammar unreadable.
    "a pattern": schema({"type": "string", "pattern": "^\\d+$"}),
    "a pattern that looks ahead": schema({"type": "string", "pattern": "(?=x)"}),
    "a format that nobody knows": schema({"type": "string", "format": "no-such-format"}),
    # llama.cpp's issue 22072: optional integers.
    "optional integers": {
        "type": "object",
        "properties": {"id": {"type": "string"}, "n": {"type": "integer"}, "m": {"type": "null"}},
        "required": ["id"],
    },
    "an integer or nothing": schema({"anyOf": [{"type": "integer"}, {"type": "null"}]}),
    "types side by side": schema({"type": ["number", "null"]}),
    "one of two": schema({"oneOf": [{"type": "integer"}, {"type": "string"}]}),
    "an enum": schema({"enum": ["a", 1, None]}),
    "an empty enum": schema({"enum": []}),
    "a list of different things": schema(
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    ),
    # llama.cpp's issues 16790, 1048 of llama-cpp-python: references.
    "a reference": schema({"$ref": "#/$defs/X"}, **{"$defs": {"X": {"type": "integer"}}}),
    "a tree": schema(
        {"$ref": "#/$defs/T"},
        **{
            "$defs": {
                "T": {
                    "type": "object",
                    "properties": {
                        "left": {"anyOf": [{"$ref": "#/$defs/T"}, {"type": "integer"}]},
                        "right": {"type": "integer"},
                    },
                    "required": ["left", "right"],
                }
            }
        },
    ),
    "a reference to nowhere": schema({"$ref": "#/$defs/nowhere"}),
    "a reference elsewhere": schema({"$ref": "https://example.com/x.json"}),
    "a type that nobody knows": schema({"type": "date"}),
    "what is required and not there": {**NUMBER, "required": ["x", "y"]},
    "bounds": schema({"type": "integer", "minimum": 3, "maximum": 9, "multipleOf": 3}),
    "a map": schema({"type": "object", "additionalProperties": {"type": "integer"}}),
    "odd names": {
        "type": "object",
        "properties": {'a "b"\n': {"type": "boolean"}, "type": {"type": "integer"}},
        "required": ['a "b"\n', "type"],
    },
}


@pytest.fixture
async def model() -> LocalChatModel:
    model = LocalChatModel(temperature=0.0, max_tokens=200, seed=7)
    await model.warm_up()
    return model


async def asked(
    model: LocalChatModel, *tools: dict[str, Any], choice: Any = None, **more: Any
) -> Any:
    """Give what the model says as one chunk, and the text that was streamed."""
    bound = model.bind_tools(list(tools), tool_choice=choice, **more)
    chunks = [chunk async for chunk in bound.astream("Use current_time.")]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk  # type: ignore[assignment]
    return whole


@pytest.mark.parametrize("parameters", SCHEMAS.values(), ids=SCHEMAS)
async def test_a_call_has_the_form_of_its_schema(
    model: LocalChatModel, parameters: dict[str, Any] | None
) -> None:
    said = await asked(model, offered("tool", parameters), TIME, choice="tool")
    assert said.content == ""
    (piece,) = said.tool_call_chunks
    assert piece["name"] == "tool"
    jsonschema.Draft202012Validator(form_of(parameters or {})).validate(json.loads(piece["args"]))
    assert said.response_metadata["finish_reason"] == "tool_calls"
    assert said.usage_metadata["output_tokens"] > 5


async def test_text_is_streamed_and_a_call_is_not_shown_as_text(model: LocalChatModel) -> None:
    called = await asked(model, TIME, SUM)
    assert (called.content, [call["name"] for call in called.tool_calls]) == ("", ["current_time"])
    bound = model.bind_tools([TIME, SUM])
    chunks = [chunk async for chunk in bound.astream("What is the capital of France?")]
    pieces = [chunk.content for chunk in chunks if chunk.content]
    assert "Paris" in "".join(map(str, pieces))
    assert len(pieces) > 3
    assert chunks[-1].response_metadata["finish_reason"] == "stop"


async def test_a_choice_of_tools_is_obeyed(model: LocalChatModel) -> None:
    for choice in ("any", "required", True):
        assert (await asked(model, TIME, SUM, choice=choice)).tool_calls
    by_name = {"type": "function", "function": {"name": "calculator"}}
    for choice in ("calculator", by_name):
        (call,) = (await asked(model, TIME, SUM, choice=choice)).tool_calls
        assert call["name"] == "calculator"
    said = await asked(model, TIME, SUM, choice="none")
    assert said.content
    assert not said.content.startswith("{")
    assert not said.tool_calls
    with pytest.raises(Terminal, match="'nosuch'"):
        await asked(model, TIME, choice="nosuch")


async def test_all_ways_to_ask_give_one_call(model: LocalChatModel) -> None:
    bound = model.bind_tools([TIME])
    streamed = [chunk.tool_calls for chunk in bound.stream("Use current_time.")]
    (call,) = streamed[-1]
    for said in (bound.invoke("Use current_time."), await bound.ainvoke("Use current_time.")):
        assert [(one["name"], one["args"]) for one in said.tool_calls] == [("current_time", {})]
    assert call["name"] == "current_time"


async def test_a_call_that_the_limit_cut_is_given_as_it_was_written(model: LocalChatModel) -> None:
    for limit in (4, 12):
        said = await asked(model, SUM, choice="any", max_tokens=limit)
        assert said.response_metadata["finish_reason"] == "length"
        assert said.content == ""
        (piece,) = said.tool_call_chunks
        with pytest.raises(ValueError, match=r".*"):
            json.loads(piece["args"])


async def test_earlier_calls_and_results_are_read_again(model: LocalChatModel) -> None:
    call = {"name": "calculator", "args": {"x": "12*12"}, "id": "c1"}
    asked_before = [
        HumanMessage("Use the calculator: 12*12"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("144", tool_call_id="c1"),
    ]
    said = await model.bind_tools([SUM], tool_choice="none").ainvoke(asked_before)
    assert "144" in str(said.content)


def test_a_tools_image_is_told_of_by_its_label() -> None:
    image = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
    (told,) = _openai_messages([ToolMessage([image], tool_call_id="c1")])
    assert "[image/png, 8 B]" in told["content"]


WRITTEN = {
    # What the engine lets through where it could not read the grammar, and what others' models do
    # (thClaws' issue 50: a tool that nobody offered).
    ('{"name": "Skill", "arguments": {"a": 1}}', False): ("", ("Skill", '{"a": 1}')),
    ('\n{"name":"t","arguments":{}}\n', False): ("", ("t", "{}")),
    ('{"name":"t","arguments":{"a":"}', True): ("", ("t", '{"a":"}')),
    ('{"name":"t","arguments":{}', True): ("", ("t", "{}")),
    ('{"na', True): ("", (None, '{"na')),
    ('{"a": 1} is JSON', False): ('{"a": 1} is JSON', None),
    ("{", False): ("{", None),
    ("  ", False): ("  ", None),
    ("plain {text}", False): ("plain {text}", None),
}


@pytest.mark.parametrize(("written", "right"), WRITTEN.items(), ids=[each for each, _ in WRITTEN])
def test_what_was_written_is_read_piece_by_piece_and_in_one(
    written: tuple[str, bool], right: tuple[str, Any]
) -> None:
    text, cut = written
    for pieces in ([text], list(text)):
        answer = HeldAnswer()
        shown = "".join(answer.take(piece) for piece in pieces)
        rest, call = answer.end(cut=cut)
        assert (shown + rest, call and (call["name"], call["args"])) == right


def test_chunks_of_a_call_are_what_langchain_reads() -> None:
    answer = HeldAnswer()
    answer.take('{"name":"t","arguments":{"a":[1,{"b":"}"}]}}')
    _, call = answer.end(cut=False)
    assert call is not None
    assert AIMessageChunk("", tool_call_chunks=[call]).tool_calls[0]["args"] == {
        "a": [1, {"b": "}"}]
    }
