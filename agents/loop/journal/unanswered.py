"""Which calls of a model's answer are yet to be answered."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage

__all__ = ["tools_unanswered"]


def tools_unanswered(said: Sequence[Any], answered: Iterable[Container[str]]) -> list[str]:
    """Give the tools that messages call, but for calls that they answer, or that are `answered`."""
    known = (*answered, {one.tool_call_id for one in said if isinstance(one, ToolMessage)})
    called = (call for one in said if isinstance(one, AIMessage) for call in one.tool_calls)
    return [call["name"] for call in called if not any((call["id"] or "") in ids for ids in known)]
