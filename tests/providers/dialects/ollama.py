"""Ollama's own API: lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.providers.dialects.dialect import Dialect, Said, Turn, said

__all__ = ["DIALECT"]

USAGE: Final = {"prompt_eval_count": 10, "eval_count": 5}
COMMON: Final = {"model": "fake", "created_at": "2026-01-01T00:00:00Z"}


def _turns(body: Mapping[str, Any]) -> Sequence[Turn]:
    return [
        Turn(each["role"], each.get("content") or "", bool(each.get("tool_calls")))
        for each in body["messages"]
    ]


def _write(answer: Mapping[str, Any], body: Mapping[str, Any]) -> Sequence[Any]:
    if "sse" in answer:
        return list(answer["sse"])
    tools = [tool["function"]["name"] for tool in body.get("tools") or ()]
    return _events(
        said(
            answer,
            tools,
            finish="stop",
            finish_calls="stop",
            usage=USAGE,
            as_json=bool(body.get("format")),
        )
    )


def _events(answer: Said) -> list[Any]:
    messages: list[dict[str, Any]] = [{"thinking": each} for each in answer.thoughts]
    messages += [{"content": each} for each in answer.texts]
    for call in answer.calls:
        if isinstance(call.value, dict):
            function = {"name": call.name, "arguments": call.value}
            messages.append({"tool_calls": [{"function": function}]})
        else:
            # It reads calls from the model's text, and hands on as text what is none.
            messages.append({"content": call.arguments})
    events: list[Any] = [
        {"message": {"role": "assistant", "content": "", **each}, "done": False}
        for each in messages
    ]
    events += answer.then
    if answer.finish is not None:
        empty = {"message": {"role": "assistant", "content": ""}, "done": True}
        events.append({**empty, "done_reason": answer.finish, **(answer.usage or {})})
    return events


def _frame(event: Any) -> bytes:
    if isinstance(event, dict) and "message" in event:
        event = {**COMMON, **event}
    return ((event if isinstance(event, str) else json.dumps(event)) + "\n").encode()


DIALECT: Final = Dialect("application/x-ndjson", _turns, _write, _frame)
