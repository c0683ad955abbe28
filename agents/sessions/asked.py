"""What stands for what a model is asked: the same in each attempt that asks the same."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import orjson
from langchain.agents.middleware import ModelRequest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

__all__ = ["asked_of"]


def asked_of(request: ModelRequest[Any], *, base: str) -> str:
    turn = []
    for message in reversed(request.messages):
        calls = (
            [(one["name"], one["args"], one["id"]) for one in message.tool_calls]
            if isinstance(message, AIMessage)
            else None
        )
        answers = message.tool_call_id if isinstance(message, ToolMessage) else None
        turn.append((message.type, message.content, calls, answers))
        if isinstance(message, HumanMessage):
            break
    return blake2b(orjson.dumps((base, turn), default=str), digest_size=16).hexdigest()
