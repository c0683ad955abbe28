"""Gemini, as Google's own client speaks it (`google_genai`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.providers.dialects.dialect import Dialect, Said, Turn, said, server_sent

__all__ = ["DIALECT"]

# With each event it reports running totals.
USAGE_AT_START: Final = {"promptTokenCount": 10, "totalTokenCount": 10}
USAGE: Final = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}


def _turns(body: Mapping[str, Any]) -> Sequence[Turn]:
    return [
        Turn(
            "assistant" if each["role"] == "model" else each["role"],
            "".join(part.get("text", "") for part in each["parts"]),
            any("functionCall" in part for part in each["parts"]),
        )
        for each in body["contents"]
    ]


def _write(answer: Mapping[str, Any], body: Mapping[str, Any]) -> Sequence[Any]:
    if "sse" in answer:
        return list(answer["sse"])
    tools = [
        function["name"]
        for tool in body.get("tools", ())
        for function in tool.get("functionDeclarations", ())
    ]
    short = said(
        answer,
        tools,
        finish="STOP",
        finish_calls="STOP",
        usage=USAGE,
        as_json="responseJsonSchema" in (body.get("generationConfig") or {}),
    )
    return _events(short, answer.get("usage_at_start", USAGE_AT_START))


def _events(answer: Said, usage_at_start: Mapping[str, Any] | None) -> list[Any]:
    parts: list[dict[str, Any]] = [{"text": each, "thought": True} for each in answer.thoughts]
    parts += [{"text": each} for each in answer.texts]
    for call in answer.calls:
        if not isinstance(call.value, dict):
            continue  # it sends calls whole, or none
        function = {"name": call.name, "args": call.value}
        parts.append({"functionCall": function if call.id is None else {**function, "id": call.id}})
    events = [_event({"content": {"role": "model", "parts": [it]}}, usage_at_start) for it in parts]
    if answer.finish is not None:
        last = {"content": {"role": "model", "parts": []}, "finishReason": answer.finish}
        return [*events, *answer.then, _event(last, answer.usage)]
    return [*events, *answer.then]


def _event(candidate: Mapping[str, Any], usage: Mapping[str, Any] | None) -> dict[str, Any]:
    event = {"candidates": [{**candidate, "index": 0}], "modelVersion": "fake"}
    return event if usage is None else {**event, "usageMetadata": usage}


DIALECT: Final = Dialect("text/event-stream", _turns, _write, server_sent)
