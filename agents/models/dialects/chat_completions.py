"""OpenAI's chat completions as many servers send them: what stands in which place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import structlog

from millstream.agents.models.errors import refuses_older_limit, refuses_stream_options

__all__ = ["ServerManners", "add_unread", "knows_older_limit", "report_in", "with_native_error"]

_log = structlog.get_logger(__name__)

_OPENAI_HOSTS: Final = ("api.openai.com", ".openai.azure.com", ".cognitiveservices.azure.com")
# With what gateways put in front, as `azure/gpt-5-mini` (litellm's issue 13432).
_NEWER_MODELS: Final = re.compile(r"([\w.-]+/)*(o\d|gpt-[5-9])")
# What OpenRouter calls an end that its provider did not mean, beside a `finish_reason` that tells
# nothing of it (hax's pull request 15).
_NATIVE_ERRORS: Final = frozenset({"error", "network_error"})


class ServerManners:
    """What a server knows of a request, as its refusals say; each thing can be learned once.

    `tells_usage`: it tells the usage of streams, if it is asked to. `has_newer_limit`: it calls the
    limit of tokens `max_completion_tokens`, whatever others of its kind call it.
    """

    __slots__ = ("has_newer_limit", "tells_usage")

    def __init__(self, *, tells_usage: bool = True) -> None:
        self.tells_usage = tells_usage
        self.has_newer_limit = False

    def learn(self, refusal: Exception) -> bool:
        """Tell whether to ask again, otherwise; so a call is asked three times at most."""
        if self.tells_usage and refuses_stream_options(refusal):
            # What its calls used is estimated.
            _log.warning("a model's server does not tell the usage of streams")
            self.tells_usage = False
            return True
        if not self.has_newer_limit and refuses_older_limit(refusal):
            self.has_newer_limit = True
            return True
        return False


def knows_older_limit(base_url: str, model: str) -> bool:
    """Whether a server calls the limit `max_tokens`, and passes over its newer name unsaid.

    So do most that are not OpenAI's or Azure's; a gateway to OpenAI's newer models refuses the
    older name as they do.
    """
    if _NEWER_MODELS.match(model):
        return False
    return not (urlsplit(base_url).hostname or "").endswith(_OPENAI_HOSTS)


def report_in(chunk: Mapping[str, Any]) -> Any:
    """Give a chunk's report of usage: its own, its choice's (Moonshot), or that of Groq's field.

    Reported by pi's issue 2017 and inspect_ai's issue 5529.
    """
    if (report := chunk.get("usage")) is not None:
        return report
    for each in (*(chunk.get("choices") or ())[:1], chunk.get("x_groq")):
        if isinstance(each, Mapping) and each.get("usage") is not None:
            return each["usage"]
    return None


def with_native_error(chunk: dict[str, Any]) -> dict[str, Any]:
    """Give a chunk whose choice ends as its provider ended it, where that was an error."""
    choices = chunk.get("choices")
    if not choices or (native := choices[0].get("native_finish_reason")) not in _NATIVE_ERRORS:
        return chunk
    return {**chunk, "choices": [{**choices[0], "finish_reason": native}, *choices[1:]]}


def add_unread(told: Mapping[str, Any], extra: dict[str, Any]) -> None:
    """Add what a message or delta holds beside its text and calls: reasoning, a refusal."""
    # DeepSeek, vLLM, llama.cpp, SGLang; OpenRouter, Groq, newer vLLM.
    thought = told.get("reasoning_content") or told.get("reasoning")
    if isinstance(thought, str) and thought:
        extra["reasoning_content"] = thought
    if isinstance(refusal := told.get("refusal"), str) and refusal:
        extra["refusal"] = refusal
