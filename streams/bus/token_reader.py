"""Reading one request's answer as it is written: clean text across attempts, from any place."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Self

from millstream.schemas.base import DEFAULT_TENANT, Address
from millstream.schemas.errors import AnswerGone, AnswerLate, Misconfigured, ServiceUnavailable
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import RESULTS, TOKENS, TopicSpec
from millstream.streams.bus.answer import Answer, Ended, Piece, Position, StartedAnew, Text
from millstream.streams.bus.api import (
    BEGINNING,
    Beginning,
    Delivery,
    EventBus,
    EventFilter,
    FromOffset,
    FromTime,
    Now,
    Start,
)

__all__ = ["Ended", "Piece", "Position", "StartedAnew", "Text", "TokenReader", "answer"]

TIMEOUT_S = 120.0


class TokenReader:
    """Yields the pieces of one answer: `Text`, `StartedAnew` and, as the last one, `Ended`.

        async with TokenReader(bus, "ada", "readme-1") as reader:
            async for piece in reader: ...

    The texts since the last `StartedAnew`, joined, are the result's text to the byte, whatever
    crashed meanwhile. `resume` takes a piece's position, also one that another process got: what
    follows that piece is yielded, nothing is missing and nothing repeated.

    Begins at `since`, by default with the oldest records, so an answer is found whenever it was
    written; a time shortly before the request spares reading what is older, and is needed where an
    id was used again after the window in which it is remembered. Only the user's home partition is
    read. Holds a bounded number of records, and of the text nothing.

    Raises `AnswerLate` if no piece comes for `timeout_s`; the reader can be asked again.
    Raises `AnswerGone`, `AnswerAltered`, and `ServiceUnavailable` once the bus is stopped.
    """

    def __init__(
        self,
        bus: EventBus,
        user_id: str,
        request_id: str,
        *,
        tenant: str = DEFAULT_TENANT,
        since: Beginning | Now | FromTime = BEGINNING,
        resume: Position | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._bus = bus
        self._of = EventFilter(user_id=user_id, tenant=tenant, request_id=request_id)
        self._since = since
        self._resume = resume
        self._timeout_s = timeout_s
        self._answer = Answer()
        self._ready: deque[Piece] = deque()
        # In this order, tokens before the result, where both have come.
        self._sources: list[AsyncIterator[Delivery]] = []
        self._coming: list[asyncio.Task[Delivery | None]] = []
        self._tails = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Fix where reading begins: what is written from now on is seen."""
        position = await self._first_position()
        self._answer = Answer(position)
        if position.ended:
            return self
        async with AsyncExitStack() as opening:
            for spec, offset in (
                (TOKENS, position.tokens_offset),
                (RESULTS, position.results_offset),
            ):
                tail = self._bus.tail((spec,), FromOffset(offset), self._of)
                self._sources.append(await opening.enter_async_context(tail))
            self._tails = opening.pop_all()
        self._coming = [asyncio.create_task(_next(source)) for source in self._sources]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop reading."""
        for task in self._coming:
            task.cancel()
        if self._coming:
            await asyncio.wait(self._coming)
        await self._tails.aclose()

    def __aiter__(self) -> Self:
        """Give the pieces that come from here on."""
        return self

    async def __anext__(self) -> Piece:
        """Wait for the next piece. If it is cancelled, nothing is lost."""
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                while not self._ready:
                    if self._answer.position.ended:
                        raise StopAsyncIteration
                    await self._read()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise AnswerLate(self._late()) from error
        return self._ready.popleft()

    async def _read(self) -> None:
        await asyncio.wait(self._coming, return_when=asyncio.FIRST_COMPLETED)
        for index, task in enumerate(self._coming):
            if not task.done():
                continue
            delivery = task.result()
            if delivery is None:
                message = f"the bus was stopped before request {self._of.request_id} had ended"
                raise ServiceUnavailable(message)
            self._coming[index] = asyncio.create_task(_next(self._sources[index]))
            self._ready.extend(self._answer.take(delivery))

    async def _first_position(self) -> Position:
        resume = self._resume
        if resume is None:
            # The results' place first: what ends in between is found, and brings its text along.
            results = await self._begin(RESULTS, self._since)
            tokens = await self._begin(TOKENS, self._since)
            return Position(tokens.partition, tokens.offset, results.offset)
        if resume.ended:
            return resume
        results = await self._begin(RESULTS, FromOffset(resume.results_offset))
        tokens = await self._begin(TOKENS, FromOffset(resume.tokens_offset))
        if tokens.partition != resume.partition:
            raise Misconfigured(
                f"the position is of partition {resume.partition}, and the user's is now "
                f"{tokens.partition}: the topics are others"
            )
        if results.offset < resume.results_offset or tokens.offset < resume.tokens_offset:
            raise Misconfigured(f"the position {resume} lies behind the end: the topics are others")
        if results.offset > resume.results_offset:
            raise AnswerGone(
                f"results from {resume.results_offset} on are wanted, and those before "
                f"{results.offset} were deleted by the topic's retention"
            )
        # Tokens that retention has deleted are no loss: the result holds the text.
        return replace(resume, tokens_offset=tokens.offset)

    async def _begin(self, spec: TopicSpec, start: Start) -> Address:
        (place,) = await self._bus.starts((spec,), start, self._of)
        return place

    def _late(self) -> str:
        hint = "it is still running, was never accepted, or ended longer ago than is kept"
        if self._answer.gap:
            hint = "the beginning of its text is not there, so the rest comes with the result"
        return (
            f"nothing of request {self._of.request_id} of {self._of.user_id} came for "
            f"{self._timeout_s:g} s: {hint}"
        )


async def answer(
    bus: EventBus,
    user_id: str,
    request_id: str,
    *,
    tenant: str = DEFAULT_TENANT,
    since: Beginning | Now | FromTime = BEGINNING,
    timeout_s: float = TIMEOUT_S,
) -> AgentResult:
    """Wait for a request's end and give its result. Raises what `TokenReader` does."""
    reader = TokenReader(bus, user_id, request_id, tenant=tenant, since=since, timeout_s=timeout_s)
    async with reader:
        async for piece in reader:
            if isinstance(piece, Ended):
                return piece.result
    message = "a reader that does not resume ends with `Ended`"
    raise AssertionError(message)


async def _next(source: AsyncIterator[Delivery]) -> Delivery | None:
    return await anext(source, None)
