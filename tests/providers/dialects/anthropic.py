"""Anthropic's messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.providers.dialects.dialect import Dialect, Said, Turn, said, server_sent

__all__ = ["DIALECT"]

# At its start it reports what it read, and at its end what it wrote in all.
USAGE_AT_START: Final = {"input_tokens": 10, "output_tokens": 1}
USAGE: Final = {"output_tokens": 5}


def _turns(body: Mapping[str, Any]) -> Sequence[Turn]:
    turns = []
    for each in body["messages"]:
        content = each["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = "".join(block.get("text", "") for block in blocks)
        calls = any(block["type"] == "tool_use" for block in blocks)
        turns.append(Turn(each["role"], text, calls))
    return turns


def _write(answer: Mapping[str, Any], body: Mapping[str, Any]) -> Sequence[Any]:
    if "sse" in answer:
        return list(answer["sse"])
    tools = [tool.get("name", "") for tool in body.get("tools", ())]
    short = said(
        answer,
        tools,
        finish="end_turn",
        finish_calls="tool_use",
        usage=USAGE,
        as_json="output_config" in body,
    )
    return _events(short, answer.get("usage_at_start", USAGE_AT_START))


def _events(answer: Said, usage_at_start: Mapping[str, Any]) -> list[Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "fake"}
    message |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage_at_start}
    events: list[Any] = [{"type": "message_start", "message": message}]
    thoughts = [{"type": "thinking_delta", "thinking": each} for each in answer.thoughts]
    texts = [{"type": "text_delta", "text": each} for each in answer.texts]
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if thoughts:
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, thoughts))
    if texts:
        blocks.append(({"type": "text", "text": ""}, texts))
    for call in answer.calls:
        pieces = [{"type": "input_json_delta", "partial_json": call.arguments}]
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        blocks.append((block, pieces))
    for index, (block, pieces) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": it} for it in pieces]
        if answer.finish is not None:
            events.append({"type": "content_block_stop", "index": index})
    events += answer.then
    if answer.finish is not None:
        delta = {"stop_reason": answer.finish, "stop_sequence": None}
        ended = {"type": "message_delta", "delta": delta}
        events.append(ended if answer.usage is None else {**ended, "usage": answer.usage})
    return events


def _frame(event: Any) -> bytes:
    name = json.loads(event).get("type") if _is_json_object(event) else None
    name = event.get("type") if isinstance(event, dict) else name
    return f"event: {name or 'content_block_delta'}\n".encode() + server_sent(event)


def _is_json_object(event: Any) -> bool:
    try:
        return isinstance(event, str) and isinstance(json.loads(event), dict)
    except ValueError:
        return False


DIALECT: Final = Dialect(
    "text/event-stream", _turns, _write, _frame, _frame({"type": "message_stop"})
)
