"""How a model's answer ended, in one vocabulary for all providers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from langchain_core.messages import BaseMessage

from millstream.schemas.events import FinishReason

__all__ = ["blocked_for", "finish_reason_of", "told_end"]

# OpenAI and its dialects; Anthropic's `stop_reason`; Gemini's `finish_reason`; Ollama's
# `done_reason`; the `status` and `incomplete_details` of OpenAI's responses. In lower case.
_ENDS: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "eos": "stop",
    "completed": "stop",
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_context_window_exceeded": "length",
    # Of OpenAI's responses, where no reason is told (pydantic-ai's issue 7911).
    "incomplete": "length",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
    "language": "content_filter",
    "model_armor": "content_filter",
    "image_safety": "content_filter",
    "image_prohibited_content": "content_filter",
    "image_recitation": "content_filter",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "error": "error",
    "network_error": "error",
    "failed": "error",
    "malformed_function_call": "error",
    "malformed_response": "error",
    "unexpected_tool_call": "error",
    "too_many_tool_calls": "error",
    "missing_thought_signature": "error",
}
_NAMES: Final = ("finish_reason", "stop_reason", "done_reason")
_PROVIDERS_THAT_TELL: Final = frozenset({"anthropic", "google_genai", "ollama", "bedrock"})
"""Of `model_provider` in a message's metadata: an answer of theirs without an end broke off."""


def told_end(metadata: Mapping[str, Any]) -> str | None:
    """Give the word by which a message's metadata tells its end, `None` if it does not."""
    for name in _NAMES:
        told = metadata.get(name)
        if isinstance(told, str) and told:
            return told
    details = metadata.get("incomplete_details")
    if isinstance(details, Mapping) and isinstance(details.get("reason"), str):
        return str(details["reason"])
    told = metadata.get("status")
    return told if isinstance(told, str) and told else None


def blocked_for(metadata: Mapping[str, Any]) -> str | None:
    """Give the word by which Gemini says that it took no question, `None` if it took it."""
    feedback = metadata.get("prompt_feedback")
    why = feedback.get("block_reason") if isinstance(feedback, Mapping) else None
    return None if why is None else str(getattr(why, "name", why))


def finish_reason_of(message: BaseMessage) -> FinishReason | None:
    """Say how a message ended; `unknown` where its provider does not say, or says a new word.

    `None`: its provider always says, and did not: the answer broke off.
    """
    metadata = message.response_metadata
    told = told_end(metadata)
    if blocked_for(metadata) is not None or (_refuses(message) and not message.text):
        return "content_filter"
    if told is None:
        # Older versions of Ollama end without a reason.
        broke_off = metadata.get("model_provider") in _PROVIDERS_THAT_TELL
        return None if broke_off and not metadata.get("done") else "unknown"
    return _ENDS.get(told.lower(), "unknown")


def _refuses(message: BaseMessage) -> bool:
    """Tell whether OpenAI's model refuses by words of their own, beside the answer's text."""
    blocks = () if isinstance(message.content, str) else message.content
    return bool(message.additional_kwargs.get("refusal")) or any(
        isinstance(block, Mapping) and block.get("type") == "refusal" for block in blocks
    )
