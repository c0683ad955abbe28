"""Anthropic's messages, and gateways that speak them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult

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

    def _whole(self, body: Any) -> ChatGenerationChunk | None:
        """Read an answer whose gateway does not stream though it was asked to."""
        if not isinstance(body, Mapping) or body.get("type") != "message":
            return None
        from anthropic.types import Message  # noqa: PLC0415  not a dependency of ours

        result: ChatResult = self._format_output(Message.construct(**body))  # type: ignore[attr-defined]
        said = result.generations[0].message
        pieces = [
            tool_call_chunk(
                name=block.get("name"),
                args=json.dumps(block.get("input") or {}),
                id=block.get("id"),
                index=index,
            )
            for index, block in enumerate(body.get("content") or ())
            if block.get("type") == "tool_use"
        ]
        return ChatGenerationChunk(
            message=AIMessageChunk(
                content=said.content,
                response_metadata={
                    **said.response_metadata,
                    "stop_reason": body.get("stop_reason"),
                    "model_name": body.get("model"),
                },
                usage_metadata=getattr(said, "usage_metadata", None),
                tool_call_chunks=pieces,
            )
        )

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
