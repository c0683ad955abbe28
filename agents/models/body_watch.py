"""What stands in an answer's body that its client does not hand on.

OpenAI's and Anthropic's clients read server-sent events and nothing else: the end mark they
swallow, and a page of HTML, an error object or a whole answer in place of a stream is to them a
stream without events.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, Final

__all__ = ["WATCHING", "BodyWatch", "content_type_of", "watch_body"]

HEAD_BYTES_MAX: Final = 1_048_576
"""Of a body that is no stream, or begins as JSON does: room for an answer of 256 KiB, escaped."""

_LINES: Final = "application/x-ndjson"
_STREAMS: Final = frozenset({None, "text/event-stream", _LINES})
_END_MARK: Final = b"[DONE]"


class BodyWatch:
    """What was seen of one call's answer: its type, whether the end mark came, its beginning.

    `noted` is what a dialect keeps of one event for a later one.
    """

    __slots__ = ("_keeps_head", "_tail", "content_type", "ended", "head", "noted")

    def __init__(self) -> None:
        self.content_type: str | None = None
        self.ended = False
        self.head = b""
        self.noted: Any = None
        self._keeps_head: bool | None = None
        self._tail = b""

    @property
    def is_stream(self) -> bool:
        """Whether the answer is a stream of events, as far as anybody knows."""
        return self.content_type in _STREAMS

    @property
    def body(self) -> Any:
        """The body as JSON, where it is that, short, and no stream."""
        try:
            return json.loads(self.head)
        except ValueError:
            return None

    def see(self, data: bytes) -> None:
        """Look at a piece of the body."""
        if self._keeps_head is None:
            # A body of JSON may come as a stream of events; lines of JSON are read as they are.
            is_json = data[:64].lstrip().startswith(b"{") and self.content_type != _LINES
            self._keeps_head = is_json or not self.is_stream
        if self.is_stream:
            # The mark may come in two pieces.
            seen = self._tail + data[-64:]
            self.ended = self.ended or _END_MARK in seen
            self._tail = seen[-len(_END_MARK) :]
        if self._keeps_head and len(self.head) < HEAD_BYTES_MAX:
            self.head += data[:HEAD_BYTES_MAX]


def content_type_of(headers: Mapping[str, str]) -> str | None:
    """Give the type of an answer's body without its parameters, `None` where none is told."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() or None


WATCHING: ContextVar[BodyWatch | None] = ContextVar("WATCHING", default=None)
"""The watch over the call that is made in this context."""


async def watch_body(response: Any) -> None:
    """Have the call's watch see the body: an event hook of an httpx client, for answers."""
    watch = WATCHING.get()
    if watch is None or response.status_code != 200:  # noqa: PLR2004  OK
        return
    watch.content_type = content_type_of(response.headers)
    read = response.aiter_bytes

    async def seen(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        async with aclosing(read(chunk_size)) as pieces:
            async for data in pieces:
                watch.see(data)
                yield data

    # Of this one answer; decoded, so that no compression hides the mark.
    response.aiter_bytes = seen
