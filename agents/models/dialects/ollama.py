"""Ollama's own API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk

from millstream.agents.models.body_watch import WATCHING, BodyWatch
from millstream.agents.models.dialects.reading import Reading

__all__ = ["OllamaReading"]


class OllamaReading(Reading):
    """Reads thoughts that nobody asked for, and a report of one side only.

    A server leaves out the count of a prompt that it has in its cache (ollama's issue 2068), and
    sends the thoughts of models that always think.
    """

    __slots__ = ()

    async def _acreate_chat_stream(
        self, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Mapping[str, Any] | str]:
        watch = WATCHING.get()
        async with aclosing(super()._acreate_chat_stream(*args, **kwargs)) as parts:  # type: ignore[misc]
            async for part in parts:
                if watch is not None:
                    watch.noted = part
                yield part

    def _look_at(self, chunk: ChatGenerationChunk, watch: BodyWatch) -> None:
        message, part = chunk.message, watch.noted
        if not isinstance(message, AIMessageChunk) or part is None:
            return
        thought = (part.get("message") or {}).get("thinking")
        if thought and "reasoning_content" not in message.additional_kwargs:
            message.additional_kwargs["reasoning_content"] = thought
        if message.usage_metadata is None and part.get("done"):
            read, wrote = part.get("prompt_eval_count"), part.get("eval_count")
            if read is not None or wrote is not None:
                message.usage_metadata = UsageMetadata(
                    input_tokens=read or 0,
                    output_tokens=wrote or 0,
                    total_tokens=(read or 0) + (wrote or 0),
                )

    def _tells_its_end(self, chunk: ChatGenerationChunk) -> bool:
        return bool(chunk.generation_info and chunk.generation_info.get("done"))
