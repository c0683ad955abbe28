"""A session's earlier turns as every provider takes them, whatever was saved of them.

Providers refuse a conversation for good that holds an empty answer, a call without its result, a
result without its call, or arguments that are no JSON (anthropics/claude-code#6774, letta#3250).
Runs leave none of these behind; sessions that are older than that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage

__all__ = ["mended"]

_NO_RESULT: Final = "The result of this call was not kept."


def mended(messages: Sequence[AnyMessage], provider: str = "") -> list[AnyMessage]:
    """Give the messages without what providers refuse; those that are in order stay as they are.

    Answers of another provider than `provider` keep their text and calls alone: signed thoughts are
    refused by any other, as are blocks that it does not know (opencode#25005). `""`: all stay.
    """
    kept: list[AnyMessage] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        if isinstance(message, ToolMessage):
            continue  # without a call: those behind their call are taken with it
        if not isinstance(message, AIMessage):
            kept.append(message)
            continue
        results: dict[str, ToolMessage] = {}
        while at < len(messages) and isinstance(result := messages[at], ToolMessage):
            results.setdefault(result.tool_call_id, result)
            at += 1
        kept += _answer(_told_to(message, provider), results)
    return kept


def _answer(message: AIMessage, results: dict[str, ToolMessage]) -> list[AnyMessage]:
    calls = {call["id"]: call for call in message.tool_calls if call["id"] and call["name"]}
    if len(calls) != len(message.tool_calls) or message.invalid_tool_calls:
        changes: dict[str, Any] = {"tool_calls": [*calls.values()], "invalid_tool_calls": []}
        extra = message.additional_kwargs
        changes["additional_kwargs"] = {
            key: extra[key] for key in extra if key not in {"tool_calls", "function_call"}
        }
        message = message.model_copy(update=changes)
    if not calls and not _says_something(message):
        return []
    return [
        message,
        *(
            results.get(one or "")
            or ToolMessage(_NO_RESULT, name=call["name"], tool_call_id=one, status="error")
            for one, call in calls.items()
        ),
    ]


def _told_to(message: AIMessage, provider: str) -> AIMessage:
    made_by = message.response_metadata.get("model_provider")
    if not provider or made_by is None or made_by == provider:
        return message
    if isinstance(message.content, str) and not message.additional_kwargs:
        return message
    return message.model_copy(update={"content": message.text, "additional_kwargs": {}})


def _says_something(message: AIMessage) -> bool:
    if isinstance(message.content, str):
        return bool(message.content.strip())
    return any(
        block.strip() if isinstance(block, str) else block.get("type") != "text" or block["text"]
        for block in message.content
    )
