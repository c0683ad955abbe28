"""What of a session's earlier turns a model is shown: the newest whole ones that fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from langchain_core.messages import AnyMessage, HumanMessage

__all__ = ["newest_turns"]

BYTES_PER_TOKEN: Final = 3
"""Cautious for English (some four), about right for other scripts."""


def newest_turns(
    messages: Sequence[AnyMessage], *, turns_max: int, tokens_max: int
) -> list[AnyMessage]:
    """Give the last turns, at most `turns_max`, of together about `tokens_max` tokens.

    A turn is a human message and all that follows it up to the next. It is kept or left out whole:
    a tool's result without its call, or a call without its result, is refused by providers.
    """
    starts = [index for index, message in enumerate(messages) if isinstance(message, HumanMessage)]
    kept_from = len(messages)
    turn_end = len(messages)
    bytes_left = tokens_max * BYTES_PER_TOKEN
    for start in reversed(starts[-turns_max:] if turns_max else []):
        bytes_left -= sum(_size_bytes(message) for message in messages[start:turn_end])
        if bytes_left < 0:
            break
        kept_from = turn_end = start
    return list(messages[kept_from:])


def _size_bytes(message: AnyMessage) -> int:
    calls = getattr(message, "tool_calls", ())
    return len(message.text.encode()) + sum(len(str(call["args"]).encode()) for call in calls)
