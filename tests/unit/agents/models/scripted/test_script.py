"""The cues of a scripted model, read from text."""

from __future__ import annotations

import pytest

from millstream.agents.models.scripted.script import (
    Call,
    Endless,
    Fail,
    Hang,
    Pacing,
    Say,
    ToolUse,
    Turn,
    parse_script,
)
from millstream.schemas.errors import Terminal


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("say: hello world", (Turn(Say("hello world")),)),
        ("say: a; b", (Turn(Say("a; b")),)),
        ("tokens: 3", (Turn(Say("t0 t1 t2")),)),
        ("fail: no", (Turn(Fail("no")),)),
        ("retry: later", (Turn(Fail("later", retryable=True)),)),
        ("hang", (Turn(Hang()),)),
        ("say: a; endless", (Turn(Say("a")), Turn(Endless()))),
        (
            "slow: 2.0; pace: 0.5; say: hi",
            (Turn(Say("hi"), Pacing(first_token_delay_s=2.0, token_delay_s=0.5)),),
        ),
        ("breaks: 2; tokens: 3", (Turn(Say("t0 t1 t2"), Pacing(breaks_after_tokens=2)),)),
        (
            'call: add {"a": 1, "b": "; say: x"} ; say: {tool_result}',
            (Turn(Call((ToolUse("add", {"a": 1, "b": "; say: x"}),))), Turn(Say("{tool_result}"))),
        ),
        (
            "call: one {} + two {}",
            (Turn(Call((ToolUse("one", {}), ToolUse("two", {})))),),
        ),
    ],
)
def test_text_with_cues_is_read_as_turns(text: str, script: tuple[Turn, ...]) -> None:
    assert parse_script(text) == script


@pytest.mark.parametrize("text", ["", "echo", "What is Kafka?", "hanging: on", "saying: no"])
def test_text_without_a_cue_is_echoed(text: str) -> None:
    assert parse_script(text) == (Turn(Say("{input}")),)


@pytest.mark.parametrize(
    "text",
    [
        "tokens: many",
        "tokens: -1",
        "tokens: 1000000000",
        "slow: nan",
        "call: add",
        "call: add [1]",
        "call: {}",
        "call: add {} say: x",
        "call: add " + '{"a":' * 100_000,
    ],
)
def test_a_cue_that_cannot_be_read_is_a_terminal_error(text: str) -> None:
    with pytest.raises(Terminal, match="at character"):
        parse_script(text)


@pytest.mark.timeout(5)
def test_hostile_text_is_read_in_linear_time() -> None:
    assert len(parse_script("say:" + "; " * 130_000)) == 1
    assert len(parse_script("say:" + " " * 260_000 + "x")) == 1
    assert parse_script(" " * 260_000 + "x") == (Turn(Say("{input}")),)
