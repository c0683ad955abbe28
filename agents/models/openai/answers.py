"""What comes back: chunks of a stream and whole answers, as LangChain's messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from millstream.agents.models.dialects.chat_completions import (
    add_unread,
    report_in,
    with_native_error,
)
from millstream.agents.models.errors import error_in
from millstream.agents.models.openai.tool_calls import CallPieces, as_json_text
from millstream.agents.models.reports import clean_report
from millstream.agents.models.usage import DOUBT
from millstream.schemas.errors import ModelFailed

__all__ = ["chunk_of", "chunk_of_text", "result_of", "text_of", "whole_as_chunk"]

_PROVIDER: Final = {"model_provider": "openai"}
# What a piece of text comes with, and says no more by it.
_PLAIN_CHOICE: Final = frozenset({"index", "delta", "finish_reason", "logprobs"})
_PLAIN_DELTA: Final = frozenset({"role", "content"})
_TIERS: Final = frozenset({"priority", "flex"})


def text_of(event: Any) -> str | None:
    """Give the text of an event that holds nothing else of an answer, as most do."""
    try:
        (choice,) = event["choices"]
        delta = choice["delta"]
        text = delta["content"]
        more = event.get("error") or event.get("usage") or event.get("x_groq")
        if type(text) is not str or not text or more:
            return None
        if not (choice.keys() <= _PLAIN_CHOICE and delta.keys() <= _PLAIN_DELTA):
            return None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return None if choice.get("finish_reason") or choice.get("logprobs") else text


def chunk_of_text(text: str) -> ChatGenerationChunk:
    """Give a piece of an answer that is this text and nothing else."""
    said = AIMessageChunk(content=text, response_metadata=dict(_PROVIDER))
    return ChatGenerationChunk(message=said)


def chunk_of(event: dict[str, Any], calls: CallPieces) -> ChatGenerationChunk | None:
    """Give a piece of an answer, `None` for an event that holds nothing of it.

    `calls` are those of the answer so far.

    Raises the error that it tells of, if it does, and `TypeError`, `KeyError` and the like where it
    has another shape than chat completions have.
    """
    if (error := error_in(event)) is not None:
        raise error
    usage, doubt = _usage_in(event)
    event = with_native_error(event)
    choices = event.get("choices")
    info: dict[str, Any] = {} if doubt is None else {DOUBT: doubt}
    if not choices:
        said = AIMessageChunk(content="", usage_metadata=usage)
        return ChatGenerationChunk(message=said, generation_info=info or None)
    choice = choices[0]
    delta = choice.get("delta")
    if delta is None and not choice.get("finish_reason") and usage is None:
        return None
    delta = delta or {}  # Azure's ends have none (agent-framework's pull request 5734)
    if reason := choice.get("finish_reason"):
        info["finish_reason"] = reason
        info |= _told(event)
    if logprobs := choice.get("logprobs"):
        info["logprobs"] = logprobs
    extra: dict[str, Any] = {}
    if call := delta.get("function_call"):
        extra["function_call"] = {**call, "name": call.get("name") or ""}
    add_unread(delta, extra)
    said = AIMessageChunk(
        content=delta.get("content") or "",
        id=delta.get("id"),
        additional_kwargs=extra,
        tool_call_chunks=calls.take(delta.get("tool_calls") or ()),
        usage_metadata=usage,
        response_metadata=dict(_PROVIDER),
    )
    return ChatGenerationChunk(message=said, generation_info=info or None)


def whole_as_chunk(body: object) -> ChatGenerationChunk | None:
    """Give an answer whose server does not stream though it was asked to, `None` if it is none."""
    choices = body.get("choices") if isinstance(body, Mapping) else None
    if not choices or not isinstance(message := choices[0].get("message"), Mapping):
        return None
    assert isinstance(body, Mapping)  # noqa: S101  it has choices
    calls = [{"index": index, **call} for index, call in enumerate(message.get("tool_calls") or ())]
    choice = {**choices[0], "delta": {**message, "tool_calls": calls or None}}
    return chunk_of({**body, "choices": [choice]}, CallPieces())


def result_of(body: object, model: str) -> ChatResult:
    """Give a whole answer. Raises the error that it tells of, and `ModelFailed` if it is none."""
    told = body if isinstance(body, Mapping) else {}
    if not told.get("choices"):
        raise error_in(told) or ModelFailed(
            f"the model's provider answered with no completion: {str(body)[:200]!r}",
            may_cost=True,
            is_over=True,
        )
    usage, doubt = _usage_in(told)
    told = with_native_error(dict(told))
    generations = []
    for choice in told["choices"]:
        message = _message(choice["message"], usage)
        if doubt is not None:
            message.response_metadata[DOUBT] = doubt
        info = {"finish_reason": choice.get("finish_reason")}
        if "logprobs" in choice:
            info["logprobs"] = choice["logprobs"]
        generations.append(ChatGeneration(message=message, generation_info=info))
    output = {
        "token_usage": told.get("usage"),
        **_PROVIDER,
        "model_name": told.get("model", model),
        "system_fingerprint": told.get("system_fingerprint", ""),
        **{name: told[name] for name in ("id", "service_tier") if told.get(name)},
    }
    return ChatResult(generations=generations, llm_output=output)


def _told(event: Mapping[str, Any]) -> dict[str, Any]:
    names = (("model", "model_name"), ("system_fingerprint",) * 2, ("service_tier",) * 2)
    return {name: event[field] for field, name in names if event.get(field)}


def _message(told: Mapping[str, Any], usage: UsageMetadata | None) -> AIMessage:
    calls, invalid = [], []
    for call in told.get("tool_calls") or ():
        if arguments := (call.get("function") or {}).get("arguments"):
            function = {**call["function"], "arguments": as_json_text(arguments)}
            call = {**call, "function": function}  # noqa: PLW2901
        try:
            parsed = parse_tool_call(call, return_id=True)
        except Exception as error:  # noqa: BLE001  LangChain's own parser, of what it cannot read
            invalid.append(make_invalid_tool_call(call, str(error)))
        else:
            if parsed is not None:
                calls.append(parsed)
    extra: dict[str, Any] = {}
    for name in ("function_call", "audio"):
        if told.get(name):
            extra[name] = told[name]
    if "refusal" in told:
        extra["refusal"] = told["refusal"]
    add_unread(told, extra)
    return AIMessage(
        content=told.get("content") or "",
        additional_kwargs=extra,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=usage,
        id=told.get("id"),
    )


def _usage_in(told: Mapping[str, Any]) -> tuple[UsageMetadata | None, str | None]:
    """Give what a chunk or answer reports of usage, and why it cannot be true."""
    if (report := report_in(told)) is None:
        return None, None
    clean, doubt = clean_report(report)
    return (None if not clean else _usage(clean, told.get("service_tier"))), doubt


def _usage(report: Mapping[str, Any], tier: object) -> UsageMetadata:
    read, wrote = report.get("prompt_tokens") or 0, report.get("completion_tokens") or 0
    read_parts = report.get("prompt_tokens_details") or {}
    wrote_parts = report.get("completion_tokens_details") or {}
    prefix = f"{tier}_" if tier in _TIERS else ""
    read_in = {
        "audio": read_parts.get("audio_tokens"),
        f"{prefix}cache_read": read_parts.get("cached_tokens"),
        f"{prefix}cache_creation": read_parts.get("cache_write_tokens"),
    }
    wrote_in = {
        "audio": wrote_parts.get("audio_tokens"),
        f"{prefix}reasoning": wrote_parts.get("reasoning_tokens"),
    }
    if prefix:
        # The rest is of the tier's price too, and not of the plain one.
        read_in[str(tier)] = read - (read_in[f"{prefix}cache_read"] or 0)
        wrote_in[str(tier)] = wrote - (wrote_in[f"{prefix}reasoning"] or 0)
    total = report.get("total_tokens")
    return UsageMetadata(
        input_tokens=read,
        output_tokens=wrote,
        total_tokens=read + wrote if total is None else total,
        input_token_details=cast("InputTokenDetails", _known(read_in)),
        output_token_details=cast("OutputTokenDetails", _known(wrote_in)),
    )


def _known(parts: Mapping[str, int | None]) -> dict[str, Any]:
    return {name: count for name, count in parts.items() if count is not None}
