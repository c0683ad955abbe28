"""What a scripted model shall do, as values, and the cues by which a request's own text says it.

A script is a list of turns; the model plays turn n where the conversation holds n answers of the
model since the last human message. In text, turns are separated by `;`:

    say: hello world            stream the text, a token per word
    tokens: 101                 stream 101 tokens, t0 to t100
    call: add {"a": 1}          call a tool; `call: add {"a": 1} + now {}` calls two at once
    fail: some reason           fail for good (Terminal)
    retry: some reason          fail in a way that may be tried again (ModelFailed)
    hang                        never answer
    endless                     stream t0, t1, … and never stop

Before a turn may stand, separated by `;` too, how it is played:

    slow: 2.0                   wait that many seconds before the first token
    pace: 0.05                  wait that many seconds before each further token
    breaks: 3                   fail as `retry` does once 3 tokens were streamed

An answer that has to be given anew, since it does not fit its schema, is a turn that was played.
In a text to say, `{tool_result}` is the newest tool result and `{input}` the human's message. So
`slow: 0.5; call: add {"a": 1, "b": 2}; say: it is {tool_result}` waits, calls, and tells. Text
that starts with no cue is echoed. A script has 100,000 `tokens` at most, in all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from millstream.schemas.errors import Terminal

__all__ = [
    "Call",
    "Endless",
    "Fail",
    "Hang",
    "Pacing",
    "Say",
    "Script",
    "Step",
    "ToolUse",
    "Turn",
    "parse_script",
]

TOKENS_MAX: Final = 100_000
DELAY_S_MAX: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Say:
    """Stream `text`, a token per word."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One call of a tool."""

    name: str
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """Call tools, all in one message."""

    uses: tuple[ToolUse, ...]


@dataclass(frozen=True, slots=True)
class Fail:
    """Raise `ModelFailed` where `retryable`, else `Terminal`."""

    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Hang:
    """Never answer."""


@dataclass(frozen=True, slots=True)
class Endless:
    """Stream tokens and never stop."""


Step = Say | Call | Fail | Hang | Endless


@dataclass(frozen=True, slots=True)
class Pacing:
    """When the tokens of a turn come, and after how many of them it breaks off."""

    first_token_delay_s: float = 0.0
    token_delay_s: float = 0.0
    breaks_after_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of the model."""

    step: Step
    pacing: Pacing = Pacing()


Script = tuple[Turn, ...]

_CUE_PATTERN: Final = (
    r"(?:(say|tokens|call|fail|retry|slow|pace|breaks)\s*:|(hang|endless)\s*(?=;|\Z))"
)
_CUE: Final = re.compile(rf"\s*{_CUE_PATTERN}\s*")
# A `;` separates only before a cue, so that a text to say may hold one.
_SEPARATOR: Final = re.compile(rf";\s*(?={_CUE_PATTERN})")
_TOOL_NAME: Final = re.compile(r"\s*([\w.-]+)\s*")
_ALSO: Final = re.compile(r"\s*\+")
_SPACE: Final = re.compile(r"\s*")
_JSON: Final = json.JSONDecoder()


def parse_script(text: str) -> Script:
    """Return the turns that `text` asks for, or one that echoes it if it starts with no cue.

    Raises `Terminal`, saying where, if a cue cannot be read.
    """
    if _CUE.match(text) is None:
        return (Turn(Say("{input}")),)
    turns: list[Turn] = []
    pacing = Pacing()
    position = tokens = 0
    while position < len(text):
        cue = _CUE.match(text, position)
        if cue is None:
            raise _unreadable(position, "a cue was expected")
        step: Step | None
        if cue[1] == "call":
            step, end = _read_call(text, cue.end())
        else:
            separator = _SEPARATOR.search(text, cue.end())
            end = separator.start() if separator else len(text)
            argument = text[cue.end() : end].strip()
            if cue[1] == "tokens":
                tokens += int(_number(argument, cue.end(), highest=TOKENS_MAX - tokens))
            step, pacing = _read_cue(cue[1] or cue[2], argument, pacing, cue.end())
        if step is not None:
            turns.append(Turn(step, pacing))
            pacing = Pacing()
        position = _after_separator(text, end)
    return tuple(turns)


def _read_cue(name: str, argument: str, pacing: Pacing, at: int) -> tuple[Step | None, Pacing]:
    """Return the step that a cue asks for, or none and how the next step is paced."""
    step: Step | None = None
    match name:
        case "say":
            step = Say(argument)
        case "tokens":
            count = int(_number(argument, at, highest=TOKENS_MAX))
            step = Say(" ".join(f"t{index}" for index in range(count)))
        case "fail" | "retry":
            step = Fail(argument, retryable=name == "retry")
        case "hang":
            step = Hang()
        case "endless":
            step = Endless()
        case "slow":
            delay_s = _number(argument, at, highest=DELAY_S_MAX)
            pacing = replace(pacing, first_token_delay_s=delay_s)
        case "pace":
            delay_s = _number(argument, at, highest=DELAY_S_MAX)
            pacing = replace(pacing, token_delay_s=delay_s)
        case "breaks":
            count = int(_number(argument, at, highest=TOKENS_MAX))
            pacing = replace(pacing, breaks_after_tokens=count)
    return step, pacing


def _read_call(text: str, position: int) -> tuple[Call, int]:
    uses: list[ToolUse] = []
    while True:
        name = _TOOL_NAME.match(text, position)
        if name is None:
            raise _unreadable(position, "the name of a tool was expected")
        try:
            args, position = _JSON.raw_decode(text, name.end())
        except (ValueError, RecursionError) as error:
            raise _unreadable(name.end(), f"a JSON object was expected: {error}") from error
        if not isinstance(args, dict):
            raise _unreadable(name.end(), "the arguments of a tool are a JSON object")
        uses.append(ToolUse(name[1], args))
        also = _ALSO.match(text, position)
        if also is None:
            return Call(tuple(uses)), position
        position = also.end()


def _after_separator(text: str, position: int) -> int:
    separator = _SEPARATOR.match(text, _skip_space(text, position))
    if separator is not None:
        return separator.end()
    if text[position:].strip(" \t\r\n;"):
        raise _unreadable(position, "`;` and a cue were expected")
    return len(text)


def _skip_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space else position


def _number(argument: str, at: int, *, highest: float) -> float:
    try:
        number = float(argument)
    except ValueError as error:
        raise _unreadable(at, f"a number was expected, not {argument[:40]!r}") from error
    if not 0 <= number <= highest:
        raise _unreadable(at, f"a number from 0 to {highest:g} was expected")
    return number


def _unreadable(position: int, reason: str) -> Terminal:
    return Terminal(f"the script cannot be read at character {position}: {reason}")
