"""Which earlier turns a model is shown."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from millstream.agents.sessions.memory import newest_turns
from millstream.agents.templates.memory import LastTurns, NoMemory, Summary, TokenBudget

CALL = AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}])


def turn(text: str) -> list[AnyMessage]:
    return [HumanMessage(text), AIMessage(text)]


def turns(*texts: str) -> list[AnyMessage]:
    return [message for text in texts for message in turn(text)]


def test_all_turns_are_kept_while_they_fit() -> None:
    messages = turns("a", "b")
    assert newest_turns(messages, LastTurns(turns_max=2, tokens_max=100)) == messages
    assert newest_turns(messages, TokenBudget(tokens_max=66)) == messages


def test_only_the_newest_turns_are_kept() -> None:
    messages = turns("a", "b", "c")
    window = LastTurns(turns_max=2, turns_keep=2, tokens_max=100)
    assert newest_turns(messages, window) == messages[2:]


def test_a_trim_goes_down_to_what_is_kept_at_once() -> None:
    messages = turns(*"abcde")
    assert newest_turns(messages, LastTurns(turns_max=4)) == messages[-4:]
    assert newest_turns(messages, LastTurns(turns_max=5)) == messages
    # Four messages of 16 tokens each and hardly any text fit into 65.
    assert newest_turns(turns(*"abc"), TokenBudget(tokens_max=65)) == turns("c")


@pytest.mark.parametrize("strategy", [LastTurns(turns_max=8), TokenBudget(tokens_max=300)])
def test_between_trims_the_beginning_stays_as_it_is(strategy: LastTurns | TokenBudget) -> None:
    shown: list[AnyMessage] = []
    trims = 0
    for number in range(50):
        kept = newest_turns(shown, strategy)
        trims += kept[:1] != shown[:1]
        assert kept == shown or len(kept) <= len(shown) // 2 + 2
        shown = [*kept, *turn(f"{number:04}")]
    assert 5 <= trims <= 12


def test_a_turn_that_does_not_fit_is_left_out_whole_with_all_before_it() -> None:
    long = [HumanMessage("x"), CALL, ToolMessage("y" * 1_000, tool_call_id="1"), AIMessage("z")]
    messages = [*turn("a"), *long, *turn("b")]
    assert newest_turns(messages, LastTurns(turns_max=9, tokens_max=50)) == messages[-2:]
    assert newest_turns(messages, TokenBudget(tokens_max=100)) == messages[-2:]


def test_a_last_turn_that_is_longer_than_a_trim_leaves_is_better_than_none() -> None:
    messages = [*turn("a"), *turn("b" * 60), *turn("c" * 60)]
    assert newest_turns(messages, LastTurns(turns_max=9, tokens_max=60)) == messages[-2:]


def test_memory_of_nothing_is_nothing() -> None:
    assert newest_turns(turn("a"), NoMemory()) == []
    assert newest_turns([], LastTurns()) == []
    assert newest_turns([AIMessage("hello")], LastTurns()) == []


def test_a_summary_is_made_of_all_that_is_kept() -> None:
    messages = turns(*"abc")
    assert newest_turns(messages, Summary(tokens_max=600)) == messages


def test_sizes_are_counted_in_bytes() -> None:
    assert newest_turns(turn("ж" * 10), LastTurns(tokens_max=13)) == []
    assert len(newest_turns(turn("ж" * 10), LastTurns(tokens_max=14))) == 2
