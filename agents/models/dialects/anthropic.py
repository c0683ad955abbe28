"""Anthropic's messages, and gateways that speak them."""

from __future__ import annotations

from typing import Any, Final

from langchain_core.outputs import ChatGenerationChunk

from millstream.agents.models.body_watch import WATCHING
from millstream.agents.models.dialects.reading import Reading
from millstream.agents.models.reports import bad_count
from millstream.agents.models.usage import DOUBT

__all__ = ["AnthropicReading"]

_COUNTS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
)


class AnthropicReading(Reading):
    """Reads what a stream reports at its start, which LangChain's class passes over.

    A stream reports at its start what was read, and at its end running totals of all that it has
    new to say. A count that the end leaves out is the start's (langchain's issue 35509,
    langchainjs' pull request 11195).
    """

    __slots__ = ()

    def _tells_its_end(self, chunk: ChatGenerationChunk) -> bool:
        return bool(chunk.message.response_metadata.get("stop_reason"))

    def _make_message_chunk_from_anthropic_event(self, event: Any, **kwargs: Any) -> Any:
        watch = WATCHING.get()
        kind = getattr(event, "type", None)
        doubt = None
        if watch is not None and kind == "message_start":
            watch.noted = getattr(getattr(event, "message", None), "usage", None)
        elif kind == "message_delta":
            doubt = _complete(event, None if watch is None else watch.noted)
        made, block = super()._make_message_chunk_from_anthropic_event(event, **kwargs)  # type: ignore[misc]
        if made is not None and doubt is not None:
            made.response_metadata[DOUBT] = doubt
        return made, block


class _Nothing:
    """A report of nothing, in the place of one that was left out."""


def _complete(event: Any, started: Any) -> str | None:
    """Add what only the start reported to the end's report, and say what of it cannot be true."""
    told = getattr(event, "usage", None)
    if told is None:
        told = event.usage = _Nothing() if started is None else started
    doubt = None
    for name in _COUNTS:
        value: Any = getattr(told, name, None) or getattr(started, name, None)
        counts = value.model_dump() if hasattr(value, "model_dump") else value
        if (bad := bad_count(counts)) is not None:
            doubt, value = f"{name} is reported as {str(bad)[:40]}", None
        setattr(told, name, value)
    return doubt
