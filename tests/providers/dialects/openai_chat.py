"""OpenAI's chat completions, and all that call themselves compatible with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.providers.dialects.dialect import Dialect, Said, Turn, said, server_sent

__all__ = ["DIALECT"]

USAGE: Final = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
COMMON: Final = {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": "fake"}


def _turns(body: Mapping[str, Any]) -> Sequence[Turn]:
    return [
        Turn(each.get("role", ""), _text(each.get("content")), bool(each.get("tool_calls")))
        for each in body["messages"]
    ]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _write(answer: Mapping[str, Any], body: Mapping[str, Any]) -> Sequence[Any]:
    if "sse" in answer:
        events = list(answer["sse"])
    else:
        tools = [tool["function"]["name"] for tool in body.get("tools", ())]
        events = _events(
            said(
                answer,
                tools,
                finish="stop",
                finish_calls="tool_calls",
                usage=USAGE,
                as_json="response_format" in body,
            )
        )
    asked_for_usage = (body.get("stream_options") or {}).get("include_usage") is True
    if "usage_only_if_asked" in answer and not asked_for_usage:
        return [each for each in events if not (isinstance(each, dict) and "usage" in each)]
    return events


def _events(answer: Said) -> list[Any]:
    deltas: list[dict[str, Any]] = [{"reasoning_content": each} for each in answer.thoughts]
    deltas += [{"role": "assistant", "content": each} for each in answer.texts]
    for index, call in enumerate(answer.calls):
        function = {"name": call.name, "arguments": call.arguments}
        one = {"index": index, "id": call.id, "type": "function", "function": function}
        deltas.append({"role": "assistant", "content": None, "tool_calls": [one]})
    choices = [{"index": 0, "delta": each, "finish_reason": None} for each in deltas]
    if answer.finish is not None:
        choices.append({"index": 0, "delta": {}, "finish_reason": answer.finish})
    events: list[Any] = [{"choices": [each]} for each in choices]
    usage = [{"choices": [], "usage": answer.usage}] if answer.usage else []
    return [*events, *answer.then, *usage]


def _frame(event: Any) -> bytes:
    if isinstance(event, dict) and "choices" in event:
        event = {**COMMON, **event}
    return server_sent(event)


DIALECT: Final = Dialect("text/event-stream", _turns, _write, _frame, b"data: [DONE]\n\n")
