"""What a model is told of a tool call: its result, bounded, or what went wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, TypeVar

from langchain_core.messages import BaseMessage, ToolCall, ToolMessage
from langgraph.types import Command

from millstream.agents.sessions.text import cut_to_bytes, well_formed, well_formed_value
from millstream.schemas.reasons import words_of

__all__ = ["bounded_answer", "error_told"]

MessageT = TypeVar("MessageT", bound=BaseMessage)

ERROR_BYTES_MAX: Final = 2_000


def error_told(call: ToolCall, error: Exception | str) -> ToolMessage:
    """Give the answer to a call that failed or was not made: an error's type and words, cut."""
    words = error if isinstance(error, str) else _words(error)
    return ToolMessage(
        cut_to_bytes(well_formed(words), ERROR_BYTES_MAX),
        name=call["name"],
        tool_call_id=call["id"],
        status="error",
    )


def bounded_answer(
    call: ToolCall, answer: ToolMessage | Command[Any], bytes_max: int
) -> ToolMessage | Command[Any]:
    """Give a tool's answer with text that is well formed and of at most `bytes_max` bytes.

    Of content in blocks, the text of all blocks counts together; other blocks stay, as media do.
    Of a command that updates the conversation, and of a list, each message is bounded. A message
    that the tool made itself answers this call, whatever id the tool gave to it.
    """
    # LangGraph hands on a list as well, which its type leaves out.
    if isinstance(answer, list):
        return [bounded_answer(call, one, bytes_max) for one in answer]  # type: ignore[return-value]
    if isinstance(answer, Command):
        update = answer.update
        if not isinstance(update, dict) or not isinstance(update.get("messages"), list):
            return answer
        messages = [
            _bounded(one, bytes_max) if isinstance(one, BaseMessage) else one
            for one in update["messages"]
        ]
        return replace(answer, update={**update, "messages": messages})
    if answer.tool_call_id != call["id"]:
        answer = answer.model_copy(update={"tool_call_id": call["id"]})
    return _bounded(answer, bytes_max)


def _bounded(answer: MessageT, bytes_max: int) -> MessageT:
    content = well_formed_value(answer.content)
    if isinstance(content, str):
        content = cut_to_bytes(content, bytes_max)
    else:
        content = _bounded_blocks(content, bytes_max)
    if content is answer.content or content == answer.content:
        return answer
    return answer.model_copy(update={"content": content})


def _bounded_blocks(blocks: list[Any], bytes_max: int) -> list[Any]:
    bounded: list[Any] = []
    left = bytes_max
    for block in blocks:
        text = block if isinstance(block, str) else block.get("text")
        if not isinstance(text, str):
            bounded.append(block)
            continue
        kept = cut_to_bytes(text, max(left, 0))
        left -= len(text.encode())
        bounded.append(kept if isinstance(block, str) else {**block, "text": kept})
    return bounded


def _words(error: Exception) -> str:
    text = words_of(error)
    name = type(error).__name__
    return f"{name}: {text}" if text else name
