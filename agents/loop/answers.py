"""What is wrong with the tool calls of a model's answer, found before any of them is made.

LangChain mends arguments that break off (`parse_partial_json`) and merges pieces by their index, so
half a call reads as a whole one. Here a streamed call counts only if its pieces, joined, are JSON
and an object. A call that does not count stays in the conversation with empty arguments, since
providers refuse one that is no JSON and one without an answer; its answer says what was wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import structlog
from langchain_core.messages import AIMessage, ToolCall
from langchain_core.messages.tool import ToolCallChunk

from millstream.agents.models.ends import told_end
from millstream.agents.sessions.text import well_formed, well_formed_value
from millstream.schemas.errors import ModelFailed
from millstream.schemas.runs.errors import ToolCallCut

__all__ = [
    "CheckedAnswer",
    "announces_calls",
    "answer_without_calls",
    "bounded_calls",
    "checked_answer_of",
    "was_cut",
]

ARGUMENTS_SHOWN_CHARS: Final = 800
NAME_CHARS_MAX: Final = 128

# OpenAI and those who speak it, Anthropic, Gemini, Ollama.
_CUT: Final = frozenset(
    {"length", "max_tokens", "max_output_tokens", "model_context_window_exceeded", "incomplete"}
)
_CALLS: Final = frozenset({"tool_calls", "tool_use", "function_call"})
_CALL_BLOCKS: Final = frozenset(
    {"tool_use", "tool_call", "invalid_tool_call", "tool_call_chunk", "function_call"}
    | {"input_json_delta"}
)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """An answer whose calls have names, ids and arguments that are objects.

    `faults` says of calls, by their id, why they are not to be made.
    """

    message: AIMessage
    faults: Mapping[str, str] = field(default_factory=dict)


def was_cut(message: AIMessage) -> bool:
    """Tell whether the provider says that the answer reached its limit of tokens."""
    return _reason(message) in _CUT


def announces_calls(message: AIMessage) -> bool:
    """Tell whether the provider says that the answer calls tools, of which there are none in it."""
    return not message.tool_calls and not message.invalid_tool_calls and _reason(message) in _CALLS


def checked_answer_of(
    message: AIMessage, pieces: Sequence[ToolCallChunk], taken: Collection[str]
) -> CheckedAnswer:
    """Check an answer. `pieces` are its calls as they were streamed, merged; none if it was not.

    `taken` are the ids of earlier calls in the conversation: a call with one of them gets another
    id, since results are told apart by it. Raises `ToolCallCut` for an answer that reached its
    limit of tokens in a call: asked again, it would break off again.
    """
    message = _well_formed(message)
    if not message.tool_calls and not message.invalid_tool_calls:
        return CheckedAnswer(message)
    cut = was_cut(message)
    calls = _streamed(pieces) if _is_of(pieces, message) else _whole(message, cut=cut)
    if cut and any(why for _, why in calls):
        names = ", ".join(sorted({call["name"] or "?" for call, why in calls if why}))
        raise ToolCallCut(f"the model's answer was cut at its limit of tokens in a call of {names}")
    return _identified(message, calls, taken)


def bounded_calls(checked: CheckedAnswer, calls_max: int) -> CheckedAnswer:
    """Give an answer with the first `calls_max` of its calls and one more, which is not made.

    That one stands for all the others, and its answer says so: each call that stays has an answer,
    and thousands of calls neither take a task each nor fill the conversation.
    """
    calls = checked.message.tool_calls
    if len(calls) <= calls_max:
        return checked
    kept = calls[: calls_max + 1]
    known = {call["id"] or "" for call in kept[:-1]}
    faults = {one: why for one, why in checked.faults.items() if one in known}
    faults[kept[-1]["id"] or ""] = (
        f"of the {len(calls)} calls of this answer only the first {calls_max} were made, which is "
        "as many as one answer may make; make the others in your next answers, if they are needed"
    )
    changes = {**_without_calls(checked.message), "tool_calls": kept}
    return CheckedAnswer(checked.message.model_copy(update=changes), faults)


def answer_without_calls(message: AIMessage) -> AIMessage:
    """Give the answer of an agent that has no tools: its text, and no call that nobody answers.

    Raises `ModelFailed` for an answer that is nothing but calls.
    """
    message = _well_formed(message)
    calls = [*message.tool_calls, *message.invalid_tool_calls]
    if not calls:
        return message
    names = ", ".join(sorted({repr(call["name"]) for call in calls}))
    if not message.text:
        raise ModelFailed(f"the model called {names}, and this agent has no tools")
    _log.info("calls of an agent without tools were dropped", tools=names)
    changes = {**_without_calls(message), "tool_calls": [], "invalid_tool_calls": []}
    return message.model_copy(update=changes)


def _identified(
    message: AIMessage, calls: Sequence[tuple[ToolCall, str | None]], taken: Collection[str]
) -> CheckedAnswer:
    counts = Counter(call["id"] for call, _ in calls if call["id"])
    used = set(taken)
    faults: dict[str, str] = {}
    named: list[ToolCall] = []
    for call, why in calls:
        given = call["id"] or ""
        if counts[given] > 1:
            why = why or f"{counts[given]} calls of this answer have the id {given!r}"  # noqa: PLW2901
        elif not call["name"]:
            why = why or "it names no tool"  # noqa: PLW2901
        one = _free(given, used)
        used.add(one)
        if why:
            faults[one] = why
        args = {} if why else call["args"]
        named.append(ToolCall(name=call["name"] or "unknown", args=args, id=one, type="tool_call"))
    if named == message.tool_calls and not message.invalid_tool_calls:
        return CheckedAnswer(message, faults)
    changes = {**_without_calls(message), "tool_calls": named, "invalid_tool_calls": []}
    return CheckedAnswer(message.model_copy(update=changes), faults)


def _without_calls(message: AIMessage) -> dict[str, Any]:
    """Give what of a message repeats its calls, without them: they stand in `tool_calls`."""
    content = message.content
    if not isinstance(content, str):
        content = [
            block
            for block in content
            if isinstance(block, str) or block.get("type") not in _CALL_BLOCKS
        ]
    extra = {
        key: value
        for key, value in message.additional_kwargs.items()
        if key not in {"tool_calls", "function_call"}
    }
    return {"content": content, "additional_kwargs": extra}


def _streamed(pieces: Sequence[ToolCallChunk]) -> list[tuple[ToolCall, str | None]]:
    calls: list[tuple[ToolCall, str | None]] = []
    for piece in pieces:
        raw = piece["args"] or ""
        args, why = _read(raw)
        if why is None and not piece["id"]:
            why = "it came in pieces without an id"
        calls.append((_call(piece["name"], args, piece["id"]), why))
    return calls


def _whole(message: AIMessage, *, cut: bool) -> list[tuple[ToolCall, str | None]]:
    calls = [(_call(one["name"], one["args"], one["id"]), None) for one in message.tool_calls]
    if cut and calls and not message.invalid_tool_calls:
        # Some clients make an empty object of arguments that broke off (langchain-litellm#249).
        calls[-1] = (calls[-1][0], "it may have been cut")  # type: ignore[assignment]
    faulty: list[tuple[ToolCall, str | None]] = [
        (_call(one["name"], {}, one["id"]), _read(one["args"] or "")[1] or one["error"] or "unread")
        for one in message.invalid_tool_calls
    ]
    return [*calls, *faulty]


def _read(raw: str) -> tuple[dict[str, Any], str | None]:
    if not raw.strip():
        return {}, None
    shown = well_formed(raw[:ARGUMENTS_SHOWN_CHARS])
    try:
        args = json.loads(raw, strict=False, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        return {}, f"its arguments are not JSON ({error}): {shown}"
    if not isinstance(args, dict):
        return {}, f"its arguments are not a JSON object: {shown}"
    return well_formed_value(args), None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        doubled = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        message = f"the key {doubled!r} stands in an object twice"
        raise ValueError(message)
    return made


def _call(name: str | None, args: dict[str, Any], one: str | None) -> ToolCall:
    known = well_formed(name or "")[:NAME_CHARS_MAX]
    return ToolCall(name=known, args=args, id=well_formed(one) if one else None, type="tool_call")


def _is_of(pieces: Sequence[ToolCallChunk], message: AIMessage) -> bool:
    return bool(pieces) and len(pieces) == len(message.tool_calls) + len(message.invalid_tool_calls)


def _free(given: str, used: Collection[str]) -> str:
    if not given:
        return f"call_{uuid4().hex}"
    one, number = given, 1
    while one in used:
        number += 1
        one = f"{given}_{number}"
    return one


def _reason(message: AIMessage) -> str | None:
    told = told_end(message.response_metadata)
    return None if told is None else told.lower()


def _well_formed(message: AIMessage) -> AIMessage:
    content = well_formed_value(message.content)
    calls = well_formed_value(message.tool_calls)
    if content is message.content and calls is message.tool_calls:
        return message
    return message.model_copy(update={"content": content, "tool_calls": calls})
