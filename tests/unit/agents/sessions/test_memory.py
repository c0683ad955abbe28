"""Which earlier turns a model is shown."""

from __future__ import annotations

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from millstream.agents.sessions.memory import newest_turns

CALL = AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}])


def turn(text: str) -> list[AnyMessage]:
    return [HumanMessage(text), AIMessage(text)]


def test_all_turns_are_kept_while_they_fit() -> None:
    messages = [*turn("a"), *turn("b")]
    assert newest_turns(messages, turns_max=2, tokens_max=100) == messages


def test_only_the_newest_turns_are_kept() -> None:
    messages = [*turn("a"), *turn("b"), *turn("c")]
    assert newest_turns(messages, turns_max=2, tokens_max=100) == messages[2:]


def test_a_turn_that_does_not_fit_is_left_out_whole_with_all_before_it() -> None:
    long = [HumanMessage("x"), CALL, ToolMessage("y" * 1_000, tool_call_id="1"), AIMessage("z")]
    messages = [*turn("a"), *long, *turn("b")]
    assert newest_turns(messages, turns_max=9, tokens_max=50) == messages[-2:]


def test_memory_of_nothing_is_nothing() -> None:
    assert newest_turns(turn("a"), turns_max=0, tokens_max=100) == []
    assert newest_turns(turn("a"), turns_max=9, tokens_max=0) == []
    assert newest_turns([], turns_max=9, tokens_max=100) == []


def test_sizes_are_counted_in_bytes() -> None:
    assert newest_turns(turn("ж" * 10), turns_max=9, tokens_max=13) == []
    assert len(newest_turns(turn("ж" * 10), turns_max=9, tokens_max=14)) == 2
