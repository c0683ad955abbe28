"""A model's reasoning, where it lets it be seen, in the places in which LangChain puts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import BaseMessage

__all__ = ["thought_of"]


def thought_of(message: BaseMessage) -> str:
    """Give the reasoning in a message or a piece of it, `""` if there is none.

    It stands beside the content (`reasoning_content`: OpenAI's dialects, Ollama), in blocks of the
    content (`thinking`: Anthropic, Gemini) or in summaries there (OpenAI's responses).
    """
    thought: Any = message.additional_kwargs.get("reasoning_content")
    if isinstance(thought, str):
        return thought
    if isinstance(message.content, str):
        return ""
    return "".join(
        _thought_in(block)
        for block in message.content
        if isinstance(block, Mapping) and block.get("type") in {"reasoning", "thinking"}
    )


def _thought_in(block: Mapping[str, Any]) -> str:
    told = block.get("reasoning") or block.get("thinking")
    if told:
        return str(told)
    summary = block.get("summary")
    if not isinstance(summary, list):
        return ""
    return "".join(str(part.get("text") or "") for part in summary if isinstance(part, Mapping))
