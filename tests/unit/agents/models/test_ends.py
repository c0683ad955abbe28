"""Each provider has its own words for how an answer ended."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage

from millstream.agents.models.ends import finish_reason_of


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"finish_reason": "stop"}, "stop"),
        ({"finish_reason": "STOP", "model_provider": "google_genai"}, "stop"),
        ({"finish_reason": "MAX_TOKENS"}, "length"),
        ({"finish_reason": "SAFETY"}, "content_filter"),
        ({"stop_reason": "end_turn"}, "stop"),
        ({"stop_reason": "tool_use"}, "tool_calls"),
        ({"stop_reason": "refusal"}, "content_filter"),
        ({"done_reason": "length"}, "length"),
        ({"status": "completed"}, "stop"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"finish_reason": "insufficient_system_resource"}, "unknown"),
        ({}, "unknown"),
        ({"model_provider": "openai"}, "unknown"),
        ({"model_provider": "anthropic", "stop_reason": None}, None),
        ({"model_provider": "ollama"}, None),
        ({"model_provider": "ollama", "done": True}, "unknown"),
        ({"model_provider": "google_genai"}, None),
        ({"finish_reason": "MALFORMED_FUNCTION_CALL"}, "error"),
        ({"finish_reason": "UNEXPECTED_TOOL_CALL"}, "error"),
        ({"prompt_feedback": {"block_reason": "PROHIBITED_CONTENT"}}, "content_filter"),
        ({"prompt_feedback": {"block_reason": None}}, "unknown"),
    ],
)
def test_a_word_for_an_end_is_understood(metadata: dict[str, Any], reason: str | None) -> None:
    assert finish_reason_of(AIMessage("x", response_metadata=metadata)) == reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (AIMessage("", additional_kwargs={"refusal": "I will not."}), "content_filter"),
        (AIMessage([{"type": "refusal", "refusal": "I will not."}]), "content_filter"),
        (AIMessage("Yes", additional_kwargs={"refusal": None}), "unknown"),
    ],
)
def test_a_refusal_in_words_of_its_own_is_no_answer(message: AIMessage, reason: str) -> None:
    assert finish_reason_of(message) == reason
