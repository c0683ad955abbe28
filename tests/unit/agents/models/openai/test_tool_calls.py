"""The pieces of calls go to their calls, whatever a server says of which is whose."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk

from millstream.agents.models.openai.tool_calls import CallPieces

ADD, SUB = {"name": "add", "arguments": '{"a": 1}'}, {"name": "sub", "arguments": '{"a": 2}'}
BOTH = [("a", "add", {"a": 1}), ("b", "sub", {"a": 2})]


def calls_of(*events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Give id, name and arguments of the calls that a stream of events comes to."""
    calls = CallPieces()
    chunks = [AIMessageChunk(content="", tool_call_chunks=calls.take(each)) for each in events]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert not whole.invalid_tool_calls
    return [(call["id"], call["name"], call["args"]) for call in whole.tool_calls]


@pytest.mark.parametrize("index", [{}, {"index": None}, {"index": 0}])
def test_calls_are_told_apart_by_their_ids(index: dict[str, Any]) -> None:
    add, sub = ({**index, "id": "a", "function": ADD}, {**index, "id": "b", "function": SUB})
    assert calls_of([add], [sub]) == BOTH
    assert calls_of([add, sub]) == BOTH


@pytest.mark.parametrize("index", [{}, {"index": None}, {"index": 0}])
def test_a_piece_without_an_id_belongs_to_the_call_before_it(index: dict[str, Any]) -> None:
    first = {**index, "id": "a", "function": {"name": "add", "arguments": '{"a"'}}
    rest: dict[str, Any] = {**index, "id": "", "function": {"arguments": ": 1}"}}
    sub = {**index, "id": "b", "function": SUB}
    assert calls_of([first], [rest], [sub]) == BOTH
    assert calls_of([first], [{**index, "function": None}], [{"index": 0}], [rest], [sub]) == BOTH


def test_a_call_that_begins_under_anothers_number_goes_on_under_its_own() -> None:
    add = {"index": 0, "id": "a", "function": ADD}
    sub = {"index": 0, "id": "b", "function": {"name": "sub", "arguments": ""}}
    assert calls_of([add], [sub], [{"index": 1, "function": {"arguments": '{"a": 2}'}}]) == BOTH


def test_a_name_that_comes_with_each_piece_is_one() -> None:
    pieces = ['{"a"', ":", " 1}"]
    events = [
        [{"index": 0, "id": "a", "function": {"name": "add", "arguments": piece}}]
        for piece in pieces
    ]
    assert calls_of(*events) == BOTH[:1]


def test_a_name_may_come_in_pieces() -> None:
    events = [
        [{"index": 0, "id": "a", "function": {"name": "ad"}}],
        [{"index": 0, "function": {"name": "d", "arguments": '{"a": 1}'}}],
    ]
    assert calls_of(*events) == BOTH[:1]


def test_pieces_of_calls_may_come_in_turns() -> None:
    heads = [
        [{"index": index, "id": each, "function": {"name": name, "arguments": '{"a"'}}]
        for index, (each, name, _) in enumerate(BOTH)
    ]
    rests = [[{"index": i, "function": {"arguments": f": {i + 1}}}"}}] for i in (1, 0)]
    assert calls_of(*heads, *rests) == BOTH


def test_arguments_may_be_the_object_itself() -> None:
    sent = {"index": 0, "id": "a", "function": {"name": "add", "arguments": {"a": 1}}}
    assert calls_of([sent]) == BOTH[:1]


def test_calls_with_one_id_stay_apart_by_their_numbers() -> None:
    add, sub = ({"index": i, "id": "a", "function": f} for i, f in enumerate((ADD, SUB)))
    assert [name for _, name, _ in calls_of([add], [sub])] == ["add", "sub"]
