"""Reads an answer's body: a stream to the sign of its end, a whole one, or what came instead."""

from __future__ import annotations

import asyncio
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any, Final

import aiohttp
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from millstream.agents.models.body_watch import BodyWatch, content_type_of
from millstream.agents.models.dialects.bound import AnswerBound
from millstream.agents.models.dialects.reading import UNREADABLE, broken_off
from millstream.agents.models.errors import error_in
from millstream.agents.models.openai.answers import chunk_of, result_of, text_of, whole_as_chunk
from millstream.agents.models.openai.connections import json_of
from millstream.agents.models.openai.server_events import EVENT_BYTES_MAX, EventReader, ServerEvent
from millstream.agents.models.openai.tool_calls import CallPieces
from millstream.schemas.errors import MillstreamError, ModelFailed

__all__ = ["streamed", "whole"]

_END_MARK: Final = b"[DONE]"
_JSON_OR_HTML: Final = (b"{", b"[", b"<")
# How long the end of a body may follow the end mark, so that its connection can be kept.
_END_FOLLOWS_S: Final = 0.2


async def streamed(
    response: aiohttp.ClientResponse, bound: AnswerBound | None
) -> AsyncGenerator[str | ChatGenerationChunk, None]:
    """Give the pieces of an answer, the last of which says how it ended; text alone as such.

    One that passes its bound is cut there; the connection is closed with the answer. Raises
    `ModelFailed` for a stream that breaks off or cannot be read, and the error that one tells of.
    """
    watch = BodyWatch()
    watch.content_type = content_type_of(response.headers)
    began = ended = False
    calls = CallPieces()
    async with aclosing(_events(response, watch)) as events:
        async for event in events:
            piece = _piece_of(event, calls)
            if piece is None:
                continue
            began = True
            if isinstance(piece, str):
                last = None if bound is None else bound.cut_text(piece)
            else:
                ended = ended or _tells_its_end(piece)
                last = None if bound is None else bound.cut(piece)
            yield piece if last is None else last
            if last is not None:
                return
    if not began:
        with _of_any_shape():
            answer = whole_as_chunk(watch.body)
        if answer is not None:
            yield answer
            return
    if not ended and not (watch.ended and began):
        raise broken_off(watch, began=began)


async def whole(response: aiohttp.ClientResponse, model: str) -> ChatResult:
    """Give an answer that was not streamed. Raises as `streamed` does."""
    body = await _whole_body(response)
    with _of_any_shape():
        return result_of(body, model)


async def _events(
    response: aiohttp.ClientResponse, watch: BodyWatch
) -> AsyncGenerator[ServerEvent, None]:
    """Give a body's events up to its end mark; a body that holds none is left with the watch."""
    reader = EventReader()
    is_body: bool | None = None
    async for piece in response.content.iter_any():
        if is_body is None:
            # Whatever it calls itself.
            unmarked = piece.removeprefix(BOM_UTF8)
            is_body = unmarked[:64].lstrip().startswith(_JSON_OR_HTML)
            piece = unmarked if is_body else piece  # noqa: PLW2901
        if is_body or not watch.is_stream:
            watch.see(piece)
        if is_body:
            continue
        for event in reader.read(piece):
            if _is_end_mark(event.data):
                watch.ended = True
                await _to_the_end(response)
                return
            yield event
    for event in reader.end():
        if _is_end_mark(event.data):
            watch.ended = True
            return
        yield event


def _is_end_mark(data: bytes) -> bool:
    return data[:1] == b"[" and data.rstrip() == _END_MARK


async def _to_the_end(response: aiohttp.ClientResponse) -> None:
    """Read a body's end, which mostly came with its end mark: else its connection is closed."""
    if response.content.at_eof():
        return
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_END_FOLLOWS_S):
            await response.content.readany()


async def _whole_body(response: aiohttp.ClientResponse) -> Any:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > EVENT_BYTES_MAX:
            message = f"the model's provider sent an answer of more than {EVENT_BYTES_MAX} bytes"
            raise ModelFailed(message, may_cost=True)
    try:
        return json_of(bytes(data))
    except ValueError:
        return data.decode(errors="replace")


def _piece_of(event: ServerEvent, calls: CallPieces) -> str | ChatGenerationChunk | None:
    if event.name == b"error":
        raise _told_error(event.data)
    with _of_any_shape():
        told = json_of(event.data)
        return text_of(told) or chunk_of(told, calls)


def _told_error(data: bytes) -> MillstreamError:
    told: Any
    try:
        told = json_of(data)
    except ValueError:
        told = data.decode(errors="replace")
    error = error_in(told) or error_in({"error": told})
    return error or ModelFailed("the model's provider told of an error without a word of it")


@contextmanager
def _of_any_shape() -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        message = f"the model's provider sent what cannot be read: {error}"
        raise ModelFailed(message, may_cost=True) from error


def _tells_its_end(chunk: ChatGenerationChunk) -> bool:
    """Whether a chunk says that the answer is whole.

    By a reason, or, where that stays null (older versions of Ollama), by the report of usage, which
    comes behind all text.
    """
    if chunk.generation_info and chunk.generation_info.get("finish_reason"):
        return True
    message: Any = chunk.message
    return message.usage_metadata is not None and not message.response_metadata
