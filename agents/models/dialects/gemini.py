"""Gemini, by Google's own client."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from langchain_core.outputs import ChatGenerationChunk

from millstream.agents.models.body_watch import BodyWatch
from millstream.agents.models.dialects.reading import Reading
from millstream.agents.models.ends import blocked_for
from millstream.agents.models.errors import as_foreseen

__all__ = ["GeminiReading"]


class GeminiReading(Reading):
    """Reads a stream to its reason of ending, or to why its question was blocked."""

    __slots__ = ()

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        try:
            async with aclosing(self._read(*args, **kwargs)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Exception as error:
            told = as_foreseen(error) if getattr(error, "response", None) is not None else None
            if told is None:
                raise
            # LangChain asks an error's response for its JSON, and aiohttp's gives a coroutine.
            raise told from error

    def _tells_its_end(self, chunk: ChatGenerationChunk) -> bool:
        return blocked_for(chunk.message.response_metadata) is not None

    def _is_of_answer(self, error: Exception, watch: BodyWatch) -> bool:
        # Google's client is on aiohttp and tells nobody of its answers; in this function of
        # LangChain's they are read.
        frames = traceback.walk_tb(error.__traceback__)
        return super()._is_of_answer(error, watch) or any(
            frame.f_code.co_name == "_aclassified_stream" for frame, _ in frames
        )
