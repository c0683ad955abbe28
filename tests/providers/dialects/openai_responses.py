"""OpenAI's responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.providers.dialects.dialect import Dialect, Said, Turn, said, server_sent

__all__ = ["DIALECT"]

USAGE: Final = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


def _turns(body: Mapping[str, Any]) -> Sequence[Turn]:
    turns = []
    for each in body["input"]:
        content = each.get("content")
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
        calls = each.get("type") == "function_call"
        turns.append(Turn("assistant" if calls else each.get("role", ""), content or "", calls))
    return turns


def _write(answer: Mapping[str, Any], body: Mapping[str, Any]) -> Sequence[Any]:
    if "sse" in answer:
        return list(answer["sse"])
    tools = [tool.get("name", "") for tool in body.get("tools", ())]
    return _events(
        said(
            answer,
            tools,
            finish="completed",
            finish_calls="completed",
            usage=USAGE,
            as_json="format" in (body.get("text") or {}),
        )
    )


def _events(answer: Said) -> list[Any]:
    events: list[dict[str, Any]] = [{"type": "response.created", "response": _response()}]
    at = 0
    if answer.thoughts:
        item = {"id": "rs_1", "type": "reasoning", "summary": []}
        events.append(_added(item, at))
        place = {"item_id": "rs_1", "output_index": at, "summary_index": 0}
        part = {"type": "summary_text", "text": ""}
        events.append({"type": "response.reasoning_summary_part.added", "part": part, **place})
        events += [
            {"type": "response.reasoning_summary_text.delta", "delta": each, **place}
            for each in answer.thoughts
        ]
        at += 1
    for each in answer.texts:
        place = {"item_id": "msg_1", "output_index": at, "content_index": 0}
        delta = {"type": "response.output_text.delta", "delta": each, "logprobs": []}
        events.append({**delta, **place})
    at += 1 if answer.texts else 0
    for call in answer.calls:
        item = {"id": f"fc_{at}", "type": "function_call", "status": "in_progress"}
        item |= {"name": call.name, "call_id": call.id, "arguments": ""}
        events.append(_added(item, at))
        place = {"item_id": f"fc_{at}", "output_index": at}
        delta = {"type": "response.function_call_arguments.delta", "delta": call.arguments}
        events.append({**delta, **place})
        at += 1
    events += answer.then
    if answer.finish is not None:
        whole = answer.finish == "completed"
        last = _response("completed" if whole else "incomplete", answer.usage)
        if not whole:
            last["incomplete_details"] = {"reason": answer.finish}
        kind = "response.completed" if whole else "response.incomplete"
        events.append({"type": kind, "response": last})
    return [
        {"sequence_number": number, **each} if isinstance(each, dict) else each
        for number, each in enumerate(events)
    ]


def _added(item: Mapping[str, Any], at: int) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": at, "item": item}


def _response(
    status: str = "in_progress", usage: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    about = {"id": "resp_1", "object": "response", "created_at": 0, "model": "fake"}
    asked = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "output": []}
    return {**about, "status": status, **asked, "usage": usage}


DIALECT: Final = Dialect("text/event-stream", _turns, _write, server_sent)
