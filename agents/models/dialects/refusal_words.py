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
    "MODEL",
    "QUOTA",
    "QUOTA_WORDS",
]

# What stands as type, code and status in error objects, in lower case. Sources: the pages on error
# codes of OpenAI, Anthropic and DeepSeek; llama.cpp's pull request 15780; the inner error of
# Azure's content filter; Gemini's are those of google.rpc.Code; Moonshot's `exceeded_current_quota_
# error`, with status 403 or 429 (Kimi-K2's issue 5, opencode's issue 24462); Alibaba's model studio
# (new-api's pull request 1401, BettaFish's issues 609 and 449); Zhipu's `1301` (langchain4j's issue
# 1079); Copilot's (copilot-api's issue 65).
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
        "arrearage",
        "allocationquota.freetieronly",
    }
)
CONTENT: Final = frozenset(
    {"content_filter", "content_policy_violation", "responsibleaipolicyviolation"}
    | {"data_inspection_failed", "1301"}
)
CONTEXT: Final = frozenset(
    {
        "context_length_exceeded",
        "exceed_context_size_error",
        "context_window_exceeded",
        "model_context_window_exceeded",
        "request_too_large",
        "model_max_prompt_tokens_exceeded",
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
MODEL: Final = frozenset({"model_not_found", "not_found_error", "notfounderror"})
BAD_REQUEST: Final = frozenset(
    {
        "invalid_request_error",
        "invalid_argument",
        "badrequesterror",
    }
)
# In these words, where no code is sent: vLLM (issue 33418), Anthropic in two ways, llama.cpp before
# its pull request 15780, OpenAI's responses, Gemini, Ollama, Mistral with Groq, OpenAI where a
# request alone is more than the limit of a minute (with status 429), SGLang (litellm's issue
# 10793), Perplexity and Bedrock (litellm's issue 21558), xAI (cline's issue 3120), Alibaba
# (qwen-code's issue 98), Copilot where it sends no code (copilot-more's issue 35), LM Studio
# (its bug tracker's issue 237), and Hugging Face's server with Together (litellm's issue 4934), in
# this order.
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
    "range of input length should be",
    "prompt token count of",
    "is loaded with context length of only",
    "`inputs` tokens + `max_new_tokens` must be <=",
)
# Anthropic says these with status 400 and `invalid_request_error`; so it says what it refuses.
# So does DeepSeek (awesome-deepseek-integration's issue 13), and xAI with status 403 (inspect_ai's
# pull request 2267). Z.ai's quota has status 429, in two languages (claude-code's issue 9201,
# CowAgent's issue 2910). The limit that a key of OpenRouter's was given has status 403 (Roo-Code's
# issue 515, gptme's issue 1449); that of Ollama's cloud 429 (Scylla's issue 346, continue's issue
# 11444). OpenAI's word for what it takes for dangerous is `invalid_prompt`, as for a bad request
# (PyRIT's pull request 1463); Alibaba's comes without its code from gateways (qwen-code's 2905).
QUOTA_WORDS: Final = (
    *("credit balance is too low", "specified api usage limits"),
    *("insufficient balance", "余额不足", "key limit exceeded"),
    *("session usage limit", "weekly usage limit", "monthly usage limit"),
)
CONTENT_WORDS: Final = (
    *("output blocked by content filtering policy", "content exists risk"),
    *("content violates usage guidelines", "limited access to this content for safety reasons"),
    "data may contain inappropriate content",
)
