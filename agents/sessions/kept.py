"""What of a run's state a checkpoint can hold, where it cannot hold all of it.

MessagePack has integers of 64 bits and text in UTF-8, and a checkpoint opens to types of
LangGraph's list only (langgraph#8673, langgraph#8326). A finished run is not failed for holding
more: what a model is shown again is kept in the nearest form, what it never sees is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from millstream.agents.sessions.text import cut_to_bytes, well_formed

__all__ = ["LESS_AND_LESS", "is_of_known_type", "keepable_message", "keepable_state", "shortened"]

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
_DEPTH_MAX: Final = 64
# What a model is shown again; the rest of a message is for programs.
_SHOWN: Final = ("content", "tool_calls", "invalid_tool_calls")
_UNSEEN: Final = ("artifact", "additional_kwargs", "response_metadata", "usage_metadata")

_LOST: Final = object()

_Select = Callable[[Sequence[BaseMessage]], Sequence[BaseMessage]]

# A checkpoint opens to classes of these modules; one of somebody's own would close it for good.
_KNOWN: Final = "langchain_core.messages."


def is_of_known_type(message: BaseMessage) -> bool:
    """Tell whether a checkpoint that holds this message can be opened."""
    return type(message).__module__.startswith(_KNOWN)


def shortened(message: BaseMessage, bytes_max: int, where: str, lost: list[str]) -> BaseMessage:
    """Give a message without the values that are longer than `bytes_max`, and name them in `lost`.

    Text that a model is shown is cut. Of content in blocks, one that holds more than text is
    replaced by a text that says so.
    """
    changes: dict[str, Any] = {}
    content = message.content
    if isinstance(content, str):
        changes["content"] = _short(content, bytes_max, f"{where}.content", lost)
    else:
        changes["content"] = [
            _short_block(block, bytes_max, f"{where}.content[{index}]", lost)
            for index, block in enumerate(content)
        ]
    for field in (*_SHOWN[1:], *_UNSEEN):
        if value := getattr(message, field, None):
            kept = _short(value, bytes_max, f"{where}.{field}", lost, cut=field in _SHOWN)
            changes[field] = None if kept is _LOST else kept
    return message.model_copy(update=changes)


def keepable_message(message: Any, where: str, lost: list[str]) -> Any:
    """Give a message as it can be kept, and name in `lost` what is left out or put otherwise."""
    if not isinstance(message, BaseMessage):
        return _plain(message, where, lost, 0)
    message = _of_known_type(message)
    changes: dict[str, Any] = {}
    for field in _SHOWN:
        if value := getattr(message, field, None):
            changes[field] = _plain(value, f"{where}.{field}", lost, 0, shown=True)
    for field in _UNSEEN:
        if value := getattr(message, field, None):
            kept = _plain(value, f"{where}.{field}", lost, 0)
            changes[field] = ({} if isinstance(value, dict) else None) if kept is _LOST else kept
    if "usage_metadata" in changes and not _is_usage(changes["usage_metadata"]):
        changes["usage_metadata"] = None
    for field in ("id", "name"):
        if isinstance(value := getattr(message, field, None), str):
            changes[field] = well_formed(value)
    return message.model_copy(update=changes)


def keepable_state(values: Mapping[str, Any], lost: list[str]) -> dict[str, Any]:
    """Give a graph's channels as they can be kept, and name in `lost` what is left out."""
    kept: dict[str, Any] = {}
    for channel, value in values.items():
        if channel == "messages":
            kept[channel] = [
                keepable_message(message, f"messages[{index}]", lost)
                for index, message in enumerate(value)
            ]
        elif (plain := _plain(value, channel, lost, 0)) is not _LOST:
            kept[channel] = plain
    return kept


def _newest_turn(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    starts = [at for at, message in enumerate(messages) if isinstance(message, HumanMessage)]
    return messages[starts[-1] :] if starts else messages[-1:]


def _newest_question_and_answer(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    turn = _newest_turn(messages)
    said = turn[-1]
    is_answer = isinstance(said, AIMessage) and not said.tool_calls
    return [turn[0], said] if is_answer else [turn[0]]


LESS_AND_LESS: Final[Sequence[tuple[int, _Select]]] = (
    (65_536, list),
    (4_096, list),
    (4_096, _newest_turn),
    (262_144, _newest_question_and_answer),
    (65_536, _newest_question_and_answer),
    (256, _newest_question_and_answer),
)
"""How much of a state that is too large is kept, the most first: the longest value in bytes."""


def _of_known_type(message: BaseMessage) -> BaseMessage:
    if is_of_known_type(message):
        return message
    known = next(one for one in type(message).__mro__ if one.__module__.startswith(_KNOWN))
    assert issubclass(known, BaseMessage)  # noqa: S101  it is one itself at the least
    fields = {name: getattr(message, name) for name in known.model_fields}
    return known.model_construct(**{**fields, "type": known.model_fields["type"].default})


def _plain(  # noqa: PLR0911  one return per kind of value
    value: Any, where: str, lost: list[str], depth: int, *, shown: bool = False
) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        if _INT_MIN <= value <= _INT_MAX:
            return int(value)
        lost.append(f"{where}: an integer beyond 64 bits, kept as text")
        return _digits(value)
    if isinstance(value, str):
        return well_formed(value)
    if depth < _DEPTH_MAX and isinstance(value, Mapping):
        items = {
            well_formed(str(key)): _plain(one, f"{where}.{key}", lost, depth + 1, shown=shown)
            for key, one in value.items()
        }
        return {key: one for key, one in items.items() if one is not _LOST}
    if depth < _DEPTH_MAX and isinstance(value, list | tuple):
        ones = [_plain(one, f"{where}[]", lost, depth + 1, shown=shown) for one in value]
        return [one for one in ones if one is not _LOST]
    lost.append(f"{where}: {type(value).__name__}")
    return _words(value) if shown else _LOST


def _short(value: Any, bytes_max: int, where: str, lost: list[str], *, cut: bool = True) -> Any:
    if isinstance(value, str | bytes):
        size = len(value if isinstance(value, bytes) else value.encode(errors="replace"))
        if size <= bytes_max:
            return value
        lost.append(f"{where}: {size} bytes")
        return cut_to_bytes(value, bytes_max) if cut and isinstance(value, str) else _LOST
    if isinstance(value, Mapping):
        items = {
            key: _short(one, bytes_max, f"{where}.{key}", lost, cut=cut)
            for key, one in value.items()
        }
        return {key: one for key, one in items.items() if one is not _LOST}
    if isinstance(value, list | tuple):
        ones = [_short(one, bytes_max, f"{where}[]", lost, cut=cut) for one in value]
        return [one for one in ones if one is not _LOST]
    return value


def _short_block(block: Any, bytes_max: int, where: str, lost: list[str]) -> Any:
    if isinstance(block, dict) and block.get("type") != "text":
        before = len(lost)
        _short(block, bytes_max, where, lost)
        if len(lost) > before:
            return {"type": "text", "text": f"[not kept: {block.get('type')}]"}
        return block
    return _short(block, bytes_max, where, lost)


def _digits(number: int) -> str:
    # Python refuses to write numbers of more than 4,300 digits.
    digits_max = 4_000
    if number.bit_length() > digits_max:
        return f"about 2**{math.floor(math.log2(abs(number)))}"
    return str(number)


def _words(value: object) -> str:
    try:
        return well_formed(str(value))[:1_000]
    except Exception:  # noqa: BLE001  a foreign type's own way to write itself
        return type(value).__name__


def _is_usage(usage: object) -> bool:
    return isinstance(usage, dict) and {"input_tokens", "output_tokens"} <= usage.keys()
