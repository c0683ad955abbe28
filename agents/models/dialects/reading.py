"""Reads a stream of any dialect to the sign of its end, or raises what became of it instead."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from langchain_core.outputs import ChatGenerationChunk

from millstream.agents.models.body_watch import WATCHING, BodyWatch
from millstream.agents.models.errors import as_foreseen, error_in, error_said
from millstream.schemas.errors import ModelFailed
from millstream.schemas.reasons import words_of

__all__ = ["UNREADABLE", "Reading", "broken_off"]

UNREADABLE: Final = (ValueError, TypeError, KeyError, AttributeError, IndexError)
"""What classes raise over a chunk or body of another shape than their provider documents."""


class Reading:
    """The base of what a dialect adds to LangChain's class: a stream that must end by a sign."""

    __slots__ = ()

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self._read(*args, **kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _read(self, *args: Any, **kwargs: Any) -> AsyncGenerator[ChatGenerationChunk, None]:
        watch = BodyWatch()
        WATCHING.set(watch)
        ended = began = False
        try:
            async with aclosing(super()._astream(*args, **kwargs)) as chunks:  # type: ignore[misc]
                async for chunk in chunks:
                    began = True
                    self._look_at(chunk, watch)
                    if not ended:
                        ended = _has_reason(chunk) or self._tells_its_end(chunk)
                    yield chunk
            if not began and (whole := self._whole(watch.body)) is not None:
                began = ended = True
                yield whole
        except UNREADABLE as error:
            if not (began or self._is_of_answer(error, watch)):
                raise  # nothing came: the fault is in what was to be sent
            told = as_foreseen(error) or error_said(words_of(error))
            if told is not None:
                raise told from error
            message = f"the model's provider sent what cannot be read: {words_of(error)}"
            raise ModelFailed(message, may_cost=True) from error
        if not ended and not (watch.ended and began):
            raise broken_off(watch, began=began)

    def _is_of_answer(self, error: Exception, watch: BodyWatch) -> bool:  # noqa: ARG002
        """Whether an error is of reading an answer, of which nothing was read yet."""
        return watch.content_type is not None

    def _look_at(self, chunk: ChatGenerationChunk, watch: BodyWatch) -> None:
        """Put into a chunk what the class left out of it."""

    def _tells_its_end(self, chunk: ChatGenerationChunk) -> bool:
        """Whether a chunk says that the answer is whole."""
        raise NotImplementedError

    def _whole(self, body: Any) -> ChatGenerationChunk | None:  # noqa: ARG002
        """Give the answer that a body of JSON holds which came in place of a stream, if any."""
        return None


def _has_reason(chunk: ChatGenerationChunk) -> bool:
    # Its provider's, or ours where it was cut at its limit.
    return bool(chunk.generation_info and chunk.generation_info.get("finish_reason"))


def broken_off(watch: BodyWatch, *, began: bool) -> Exception:
    """Give what became of a stream that ended without a sign of its end."""
    if began:
        message = "the model's stream ended without a sign of its end"
        return ModelFailed(message, may_cost=True, is_over=True)
    if (error := error_in(watch.body)) is not None:
        return error
    if watch.is_stream:
        message = "the model's stream ended before it began"
        return ModelFailed(message, may_cost=True, is_over=True)
    said = "a body that is no answer" if isinstance(watch.body, Mapping) else "no stream"
    return ModelFailed(f"the model's provider answered with {watch.content_type} and {said}")
