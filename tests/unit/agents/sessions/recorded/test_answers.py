"""Answers of models and tools: a run that is taken over goes on with what the first one saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents.middleware import ModelResponse
from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage, ToolMessage
from langgraph.types import Command, Overwrite, Send
from pydantic import BaseModel
from structlog.testing import capture_logs

from millstream.agents.sessions.recorded.answers import (
    ToolAnswer,
    message_of,
    model_answer_of,
    recorded_message,
    recorded_model,
    recorded_repair,
    recorded_tool,
    repair_of,
    tool_answer_of,
)
from millstream.schemas.journal.errors import JournalUnreadable
from millstream.schemas.lane_events import AnswerRepair
from tests.harness.odd_values import messages, over_the_wire, same, values

DONE = ToolMessage("done", tool_call_id="c", artifact={"raw": b"\xff"})


def same_answers(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_answers, one, other))
    if isinstance(one, Command):
        assert isinstance(other, Command)
        return all(
            same(getattr(one, name), getattr(other, name))
            for name in ("update", "goto", "graph", "resume")
        )
    return same(one, other)


@given(messages, values, st.dictionaries(st.text(), st.text(), max_size=2))
def test_what_a_model_said_is_read_as_its_run_goes_on_with_it(
    message: BaseMessage, form: Any, faults: dict[str, str]
) -> None:
    recorded = recorded_model(ModelResponse([message, DONE], form), faults)
    response, read = model_answer_of(over_the_wire(recorded.content))
    assert read == faults
    assert same(response.result, recorded.answer.result)
    assert same(response.structured_response, recorded.answer.structured_response)
    again = recorded_model(recorded.answer, faults)
    assert again.answer is recorded.answer
    assert not again.lost


@given(messages)
def test_what_a_model_said_to_a_middleware_is_read_as_its_run_goes_on_with_it(
    message: BaseMessage,
) -> None:
    recorded = recorded_message(message)
    assert same(message_of(over_the_wire(recorded.content)), recorded.answer)


@given(st.dictionaries(st.text(), values, max_size=3), values)
def test_what_a_tool_commands_is_read_as_its_run_goes_on_with_it(
    update: dict[str, Any], sent: Any
) -> None:
    command: ToolAnswer = Command(
        update={"messages": [DONE], **update}, goto=[Send("tools", sent), "model"]
    )
    recorded = recorded_tool([command, DONE])
    read = tool_answer_of(over_the_wire(recorded.content))
    assert same_answers(read, recorded.answer)
    assert recorded_tool(recorded.answer).answer is recorded.answer


@pytest.mark.parametrize(
    "answer",
    [
        DONE,
        Command(update={"messages": [DONE], "todos": [{"content": "a", "status": "pending"}]}),
        Command(update={"messages": [RemoveMessage(id="m"), DONE], "seen": {("a", 1)}}),
        Command(update=[("messages", [DONE]), ("n", 1)], goto=["a", "b"], graph=Command.PARENT),
        Command(update={"messages": Overwrite([DONE])}, goto="end"),
        Command(goto=Send("tools", {"messages": [AIMessage("x")]})),
        Command(resume={"i": 1}),
        Command(),
        [DONE, Command(update={"n": 1})],
    ],
)
def test_a_tools_answer_is_read_back_as_it_was(answer: Any) -> None:
    recorded = recorded_tool(answer)
    assert recorded.answer is answer
    assert same_answers(tool_answer_of(over_the_wire(recorded.content)), answer)


class Update(BaseModel):
    count: int = 1
    note: str | None = None
    left: Any = None


@dataclass
class Plan:
    steps: list[str]


def test_a_state_of_an_apps_own_class_is_what_langgraph_takes_of_it() -> None:
    recorded = recorded_tool(Command(update=Update(count=2)))
    assert recorded.answer.update == {"count": 2}
    assert tool_answer_of(over_the_wire(recorded.content)).update == {"count": 2}


def test_what_has_no_json_is_left_out_of_what_a_tool_commands_and_named() -> None:
    with capture_logs() as logged:
        recorded = recorded_tool(Command(update={"plan": Plan(["a"]), "frame": object()}))
    assert recorded.answer.update == {"plan": {"steps": ["a"]}}
    assert recorded.lost == ["answer.update.frame: object"]
    assert [one["left_out"] for one in logged] == [["answer.update.frame: object"]]


def test_a_form_in_a_class_is_read_as_an_object() -> None:
    recorded = recorded_model(ModelResponse([AIMessage("x")], Update(count=3)), {})
    assert recorded.answer.structured_response == {"count": 3, "note": None, "left": None}


def test_an_answer_without_an_id_is_read_by_the_id_that_the_run_goes_on_with() -> None:
    recorded = recorded_model(ModelResponse([AIMessage("x"), DONE]), {})
    ids = [one.id for one in recorded.answer.result]
    assert len({*ids}) == 2
    assert None not in ids
    response, _ = model_answer_of(over_the_wire(recorded.content))
    assert [one.id for one in response.result] == ids


def test_an_answer_to_be_given_anew_is_read_back() -> None:
    repair = AnswerRepair(answer="{", problem="no JSON")
    assert repair_of(over_the_wire(recorded_repair(repair).content)) == repair


@pytest.mark.parametrize("content", [None, {}, [], {"messages": 5}, {"message": {"type": "x"}}])
@pytest.mark.parametrize("read", [model_answer_of, message_of, tool_answer_of, repair_of])
def test_what_is_no_answer_is_not_read(read: Any, content: Any) -> None:
    with pytest.raises(JournalUnreadable, match="cannot be read"):
        read(content)


@pytest.mark.parametrize(
    "content",
    [
        {"message": {"type": "ai", "content": ""}},
        {"command": {"update": {"$send": ["a"]}}},
        {"command": {"module": "os"}},
        {"command": []},
        {"answers": [{}]},
        {"answers": [{"message": None}]},
    ],
)
def test_what_is_no_answer_of_a_tool_is_not_read(content: Any) -> None:
    with pytest.raises(JournalUnreadable, match="answer of a tool cannot be read"):
        tool_answer_of(content)
