"""What a model is asked, by its digest: equal in each attempt of a run, and for nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from millstream.agents.loop.journal.asked import AskedDigest, RunBase
from millstream.agents.sessions.recorded.messages import as_json, from_json, nearest
from millstream.schemas.lane_events import AnswerRepair
from tests.harness.odd_values import messages, over_the_wire

BASE = RunBase(
    template="support",
    version="3",
    system=SystemMessage("Be brief."),
    schema={"type": "object", "properties": {"a": {"type": "string"}}},
    base_checkpoint_id="c1",
)
REPAIR = AnswerRepair(answer="{", problem="no JSON")


def turn() -> list[BaseMessage]:
    """Give the messages of a turn as an attempt makes them, with ids of their own."""
    pay = {"name": "pay", "args": {"eur": 5, "to": "ada"}, "id": "c1", "type": "tool_call"}
    return [
        HumanMessage("pay ada", id=f"q{time.perf_counter_ns()}"),
        AIMessage("", tool_calls=[pay], id="a1"),
        ToolMessage("paid", tool_call_id="c1", name="pay", id=f"t{time.perf_counter_ns()}"),
    ]


@given(st.lists(messages, max_size=4))
def test_the_same_question_has_one_digest_in_each_attempt(said: list[BaseMessage]) -> None:
    first = AskedDigest(BASE)
    live = [nearest(one) for one in said]
    digests = [first.of(live[:end]) for end in range(len(live) + 1)]
    read = [from_json(over_the_wire(as_json(one))) for one in live]
    assert AskedDigest(replace(BASE)).of(read) == digests[-1]
    assert [first.of(read[:end]) for end in range(len(read) + 1)] == digests
    assert all(len(one) == 32 for one in digests)
    assert len({*digests}) == len(digests)


def test_ids_of_messages_and_the_order_of_keys_make_no_other_question() -> None:
    one, other = turn(), turn()
    other[1] = AIMessage(
        "", tool_calls=[{"args": {"to": "ada", "eur": 5}, "name": "pay", "id": "c1"}], id="b"
    )
    assert AskedDigest(BASE).of(one) == AskedDigest(BASE).of(other)


@pytest.mark.parametrize(
    "change",
    [
        {"template": "sales"},
        {"version": "4"},
        {"version": None},
        {"system": SystemMessage("Be kind.")},
        {"system": None},
        {"schema": {"type": "object", "properties": {"b": {"type": "string"}}}},
        {"schema": None},
        {"base_checkpoint_id": "c2"},
        {"base_checkpoint_id": None},
        {"forget": True},
    ],
)
def test_another_run_asks_something_else(change: dict[str, Any]) -> None:
    assert AskedDigest(BASE).of(turn()) != AskedDigest(replace(BASE, **change)).of(turn())


def test_a_prompt_is_known_by_its_words() -> None:
    assert AskedDigest(BASE).of([]) == AskedDigest(replace(BASE, system="Be brief.")).of([])


def with_call(**changes: Any) -> Callable[[list[BaseMessage]], BaseMessage]:
    def changed(said: list[BaseMessage]) -> BaseMessage:
        answer = said[1]
        assert isinstance(answer, AIMessage)
        call = {**answer.tool_calls[0], **changes}
        return answer.model_copy(update={"tool_calls": [call]})

    return changed


@pytest.mark.parametrize(
    ("at", "changed"),
    [
        (0, lambda _: HumanMessage("pay bob")),
        (0, lambda _: HumanMessage([{"type": "text", "text": "pay ada"}])),
        (0, lambda _: SystemMessage("pay ada")),
        (1, lambda said: said[1].model_copy(update={"content": "I pay"})),
        (1, with_call(id="c2")),
        (1, with_call(name="refund")),
        (1, with_call(args={"eur": 5.0, "to": "ada"})),
        (1, with_call(args={"eur": 50, "to": "ada"})),
        (2, lambda said: said[2].model_copy(update={"tool_call_id": "c2"})),
        (2, lambda said: said[2].model_copy(update={"content": "not paid"})),
    ],
)
def test_other_words_or_calls_are_another_question(
    at: int, changed: Callable[[list[BaseMessage]], BaseMessage]
) -> None:
    asked = AskedDigest(BASE)
    said = turn()
    before = asked.of(said)
    said[at] = changed(said)
    assert asked.of(said) != before
    assert asked.of(said) == AskedDigest(BASE).of(said)


def test_messages_that_are_gone_or_in_another_order_are_another_question() -> None:
    asked = AskedDigest(BASE)
    said = turn()
    whole = asked.of(said)
    others = [said[:2], said[1:], [said[1], said[0], said[2]], [*said, said[0]]]
    assert whole not in {asked.of(one) for one in others}
    assert asked.of(said) == whole


def test_a_question_asked_again_for_another_answer_is_another_one() -> None:
    asked = AskedDigest(BASE)
    said = turn()
    repairs = [
        None,
        REPAIR,
        REPAIR.model_copy(update={"answer": "["}),
        REPAIR.model_copy(update={"problem": "no object"}),
    ]
    digests = [asked.of(said, one) for one in repairs]
    assert len({*digests}) == 4
    assert asked.of(said) == digests[0]


def test_a_message_whose_content_was_put_in_its_place_is_read_anew() -> None:
    asked = AskedDigest(BASE)
    said = turn()
    before = asked.of(said)
    said[2].content = "cleared"
    assert asked.of(said) != before


def test_a_message_is_read_once_however_often_it_is_asked_with() -> None:
    asked = AskedDigest(BASE)
    blocks: list[str | dict[Any, Any]] = ["before"]
    said: list[BaseMessage] = [*turn(), HumanMessage(blocks)]
    kept = said[-1].content
    assert isinstance(kept, list)
    first = asked.of(said)
    kept[0] = "after"  # by which alone it could be told that it was read again
    assert asked.of(said) == first
    said.insert(0, SystemMessage("A summary."))
    moved = asked.of(said)
    kept[0] = "before"
    assert AskedDigest(BASE).of(said) == moved
