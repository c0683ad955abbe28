"""How providers name what they refuse for, each with its source; `../errors.py` reads it."""

from __future__ import annotations

from typing import Final

__all__ = [
    "BAD_REQUEST",
    "CONTENT",
    "CONTENT_WORDS",
    "CONTEXT",
    "CONTEXT_WORDS",
    "KEY",
    "QUOTA",
    "QUOTA_WORDS",
]

# What stands as type, code and status in error objects, in lower case. Sources: the pages on error
# codes of OpenAI, Anthropic and DeepSeek; llama.cpp's pull request 15780; the inner error of
# Azure's content filter; Gemini's are those of google.rpc.Code; Moonshot's `exceeded_current_quota_
# error`, with status 403 or 429 (Kimi-K2's issue 5, opencode's issue 24462).
QUOTA: Final = frozenset(
    {
        "insufficient_quota",
        "exceeded_current_quota_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
        "billing_disabled",
        "insufficient_balance",
        "credit_balance_too_low",
    }
)
CONTENT: Final = frozenset(
    {"content_filter", "content_policy_violation", "responsibleaipolicyviolation"}
)
CONTEXT: Final = frozenset(
    {
        "context_length_exceeded",
        "exceed_context_size_error",
        "context_window_exceeded",
        "model_context_window_exceeded",
        "request_too_large",
    }
)
KEY: Final = frozenset(
    {
        "authentication_error",
        "permission_error",
        "invalid_api_key",
        "unauthenticated",
        "permission_denied",
        "api_key_invalid",
        "api_key_service_blocked",
        "service_disabled",
    }
)
BAD_REQUEST: Final = frozenset(
    {
        "invalid_request_error",
        "invalid_argument",
        "not_found_error",
        "model_not_found",
        "badrequesterror",
        "notfounderror",
    }
)
# In these words, where no code is sent: vLLM (issue 33418), Anthropic in two ways, llama.cpp before
# its pull request 15780, OpenAI's responses, Gemini, Ollama, Mistral with Groq, OpenAI where a
# request alone is more than the limit of a minute (with status 429), SGLang (litellm's issue
# 10793), Perplexity and Bedrock (litellm's issue 21558), and xAI (cline's issue 3120), in this
# order.
CONTEXT_WORDS: Final = (
    "maximum context length",
    "prompt is too long",
    "exceed context limit",
    "available context size",
    "exceeds the context window",
    "input token count",
    "exceeds maximum context",
    "reduce the length of the messages",
    "request too large for",
    "longer than the model's context length",
    "length of all messages is too long",
    "input is too long for requested model",
    "maximum prompt length",
)
# Anthropic says these with status 400 and `invalid_request_error`; so it says what it refuses.
# So does DeepSeek (awesome-deepseek-integration's issue 13), and xAI with status 403 (inspect_ai's
# pull request 2267). Z.ai's quota has status 429, in two languages (claude-code's issue 9201,
# CowAgent's issue 2910).
QUOTA_WORDS: Final = (
    *("credit balance is too low", "specified api usage limits"),
    *("insufficient balance", "余额不足"),
)
CONTENT_WORDS: Final = (
    *("output blocked by content filtering policy", "content exists risk"),
    "content violates usage guidelines",
)
