"""Reading one request's answer as it is written: clean text across attempts, from any place."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Self

from millstream.schemas.base import DEFAULT_TENANT, Address
from millstream.schemas.errors import (
    AnswerGone,
    AnswerLate,
    AnswerUnknown,
    Misconfigured,
    ServiceUnavailable,
)
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import DECISIONS, REQUESTS, RESULTS, STEPS, TOKENS, TopicSpec
from millstream.streams.bus.answer import (
    STEPS_HELD_MAX,
    Answer,
    Ended,
    Piece,
    Position,
    StartedAnew,
    Stepped,
    Text,
)
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

__all__ = ["Ended", "Piece", "Position", "StartedAnew", "Stepped", "Text", "TokenReader", "answer"]

TIMEOUT_S = 120.0

_STEPS_WAIT_S = 1.0
"""How long a result waits for steps of its attempt before they are looked for on the topic."""

_HISTORY_MAX = 10_000

_LOOK_MAX_S = 5.0
"""How long a reader that got nothing may look for its request."""


class TokenReader:
    """Yields the pieces of one answer: `Text`, `StartedAnew` and, as the last one, `Ended`.

        async with TokenReader(bus, "ada", "readme-1") as reader:
            async for piece in reader: ...

    The texts since the last `StartedAnew`, joined, are the result's text to the byte, whatever
    crashed meanwhile. `resume` takes a piece's position, also one that another process got: what
    follows that piece is yielded, nothing is missing and nothing repeated.

    With `steps`, what the run did beside writing is yielded too, as `Stepped`: each step in its
    place in the text (`Stepped` says when it is not), those of an attempt that is void before the
    `StartedAnew`, all of the result's attempt before `Ended`. Steps that retention has deleted are
    left out. A position of a reader without steps gives the steps from `since` on.

    Begins at `since`, by default with the oldest records, so an answer is found whenever it was
    written; a time shortly before the request spares reading what is older, and is needed where an
    id was used again after the window in which it is remembered. Only the user's home partition is
    read. Holds a bounded number of records, and of the text nothing.

    Raises `AnswerLate` if no piece comes for `timeout_s`, by default 120 s; the reader can be asked
    again. It is an `AnswerUnknown` if no such request has come, which is looked up then, in at most
    5 s more.
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
        steps: bool = False,
    ) -> None:
        self._bus = bus
        self._of = EventFilter(user_id=user_id, tenant=tenant, request_id=request_id)
        self._since = since
        self._resume = resume
        self._timeout_s = timeout_s
        self._steps = steps
        self._answer = Answer(steps=steps)
        self._ready: deque[Piece] = deque()
        # In this order, while there are any: steps, the text behind them, the result.
        self._sources: dict[str, AsyncIterator[Delivery]] = {}
        self._coming: dict[str, asyncio.Task[Delivery | None]] = {}
        self._tails = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Fix where reading begins: what is written from now on is seen."""
        position = await self._first_position()
        self._answer = Answer(position, steps=self._steps)
        if position.ended:
            return self
        wanted = [(TOKENS, position.tokens_offset), (RESULTS, position.results_offset)]
        if self._steps:
            wanted.insert(0, (STEPS, position.steps_offset))
        async with AsyncExitStack() as opening:
            for spec, offset in wanted:
                tail = self._bus.tail((spec,), FromOffset(offset), self._of)
                self._sources[spec.name] = await opening.enter_async_context(tail)
            self._tails = opening.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop reading."""
        coming = tuple(self._coming.values())
        for task in coming:
            task.cancel()
        if coming:
            await asyncio.wait(coming)
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
            raise await self._late() from error
        return self._ready.popleft()

    async def _read(self) -> None:
        for name, source in self._sources.items():
            if name not in self._coming and (name != STEPS.name or self._answer.may_read_steps):
                self._coming[name] = asyncio.create_task(_next(source))
        patience_s = _STEPS_WAIT_S if self._answer.steps_missing else None
        done, _ = await asyncio.wait(
            self._coming.values(), timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            await self._look_for_steps()
        for name in self._sources:
            task = self._coming.get(name)
            if task is None or not task.done():
                continue
            delivery = task.result()
            if delivery is None:
                message = f"the bus was stopped before request {self._of.request_id} had ended"
                raise ServiceUnavailable(message)
            del self._coming[name]
            self._ready.extend(self._answer.take(delivery))
            return

    async def _look_for_steps(self) -> None:
        """Take what the topic has of the steps that a result still lacks: no others will come.

        All of them were acknowledged before the result. They may have been deleted since, or stand
        before where reading began.
        """
        limit = self._answer.steps_missing + STEPS_HELD_MAX
        for delivery in await self._bus.history(
            topics=(STEPS,), filter=self._of, limit=min(limit, _HISTORY_MAX)
        ):
            self._ready.extend(self._answer.take(delivery))
        self._ready.extend(self._answer.give_up_steps())

    async def _first_position(self) -> Position:
        resume = self._resume
        if resume is None:
            # The results' place first: what ends in between is found, and brings its text along.
            results = await self._begin(RESULTS, self._since)
            tokens = await self._begin(TOKENS, self._since)
            first = Position(tokens.partition, tokens.offset, results.offset)
            return await self._with_steps(first)
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
        return await self._with_steps(replace(resume, tokens_offset=tokens.offset))

    async def _with_steps(self, position: Position) -> Position:
        if not self._steps:
            return position
        if position.steps_offset < 0:
            steps = await self._begin(STEPS, self._since)
            return replace(position, steps_offset=steps.offset)
        steps = await self._begin(STEPS, FromOffset(position.steps_offset))
        if steps.offset < position.steps_offset:
            raise Misconfigured(f"the position {position} lies behind the end: other topics")
        return replace(position, steps_offset=steps.offset)

    async def _begin(self, spec: TopicSpec, start: Start) -> Address:
        (place,) = await self._bus.starts((spec,), start, self._of)
        return place

    async def _late(self) -> AnswerLate:
        told = (
            f"nothing of request {self._of.request_id} of {self._of.user_id} came for "
            f"{self._timeout_s:g} s: "
        )
        if self._answer.gap:
            hint = "the beginning of its text is not there, so the rest comes with the result"
            return AnswerLate(f"{told}{hint}")
        if self._answer.position.attempt >= 0:
            return AnswerLate(f"{told}it is still running, and writes nothing")
        match await self._request_came():
            case False:
                return AnswerUnknown(
                    f"{told}no such request has come. Look whether user, tenant and request id are "
                    "right, and whether its record could be read (`millstream dead-letters list`); "
                    "one that ended longer ago than is kept is not known either"
                )
            case True:
                hint = "it waits to be run, or is run and writes nothing; does a worker run?"
            case None:
                hint = "it is still running, was never accepted, or ended longer ago than is kept"
        return AnswerLate(f"{told}{hint}")

    async def _request_came(self) -> bool | None:
        """Tell whether the request, or a decision on it, is on the topics; `None` if unsaid."""
        try:
            async with asyncio.timeout(_LOOK_MAX_S):
                for spec in (REQUESTS, DECISIONS):
                    if await self._bus.history(topics=(spec,), filter=self._of, limit=1):
                        return True
        except (TimeoutError, ServiceUnavailable, Misconfigured):
            return None
        return False


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
