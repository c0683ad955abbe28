"""Following one request on the bus: its tokens and its result, or the dead letter it ended as."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from millstream.schemas.base import Address
from millstream.schemas.dead_letters import DeadLetter, RequestIdReused
from millstream.schemas.events import (
    UNPRICED,
    AgentRequest,
    AgentResult,
    AgentToken,
    CostRecorded,
    Decision,
)
from millstream.schemas.steps import AgentStep
from millstream.schemas.topics import COSTS, DEAD_LETTERS, DECISIONS, RESULTS, STEPS, TOKENS
from millstream.streams.bus.answer import Answer, Ended, Piece
from millstream.streams.bus.api import Delivery, EventBus, EventFilter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Progress", "Told", "earlier_result", "submitted"]

_QUEUED_MAX = 1000


@dataclass(frozen=True, slots=True)
class Told:
    """A record that concerns the request, and what it adds to the answer.

    Of the last one, `unpriced` tells that a model which it used has no price.
    """

    delivery: Delivery
    pieces: tuple[Piece, ...] = ()
    unpriced: bool = False


class Progress:
    """How far a request has come that somebody follows."""

    def __init__(self) -> None:
        self.address: Address | None = None
        """Where its record stands, once Kafka has acknowledged it."""
        self.taken_up = False
        """Whether a worker has taken it up."""
        self.given_up = False
        """Whether it is no longer waited for, which was told."""


async def earlier_result(bus: EventBus, request: AgentRequest) -> Told | None:
    """Give the result of an earlier request of the same user and id, `None` where there is none.

    Raises `RequestIdReused` if that asked for something else, as lanes do.
    """
    found = await bus.history(topics=(RESULTS,), filter=_of(request), limit=1)
    if not found:
        return None
    await _require_same_question(bus, request)
    answer = Answer()
    pieces = answer.take(found[-1])
    result = found[-1].event
    if not answer.position.ended and isinstance(result, AgentResult):
        # It was cut off: its text stands in its tokens alone, which `millstream history` shows.
        pieces = (Ended(result, answer.position),)
    return Told(found[-1], pieces)


async def _require_same_question(bus: EventBus, request: AgentRequest) -> None:
    # A result does not say what was asked; the decision that came before it does. There is none of
    # a request that was cancelled before it came, which matches any question.
    decided = await bus.history(topics=(DECISIONS,), filter=_of(request), limit=1)
    decision = decided[-1].event if decided else None
    if not isinstance(decision, Decision) or decision.request_digest is None:
        return
    # Without a session of its own it has the request's id for one; so neither address nor time
    # is in the digest.
    nowhere = Address(topic="", partition=0, offset=0)
    if request.resolved(nowhere, request.at_ms).digest != decision.request_digest:
        raise RequestIdReused(
            f"request id {request.request_id!r} was used before by this user for something else "
            "(template, model, session or input differ); nothing was published. Give each request "
            "an id of its own"
        )


@asynccontextmanager
async def submitted(
    bus: EventBus, request: AgentRequest, *, steps: bool = False, progress: Progress | None = None
) -> AsyncGenerator[tuple[Address, AsyncIterator[Told]]]:
    """Publish a request, which has an id, and give its address and what comes of it.

    That ends with the piece `Ended`, or with the `DeadLetter` of its record. It is subscribed to
    before the request is published, so that nothing is missed. With `steps`, those of the run are
    pieces as well. `progress` is kept up to date.
    """
    progress = progress or Progress()
    arrived: asyncio.Queue[Delivery] = asyncio.Queue(_QUEUED_MAX)
    # Many a run writes for long before its first token: its decision tells that it was taken up.
    topics = (TOKENS, RESULTS, DECISIONS, *((STEPS,) if steps else ()))
    follow = await bus.subscribe(arrived.put, topics=topics, filter=_of(request))
    unread = await bus.subscribe(arrived.put, topics=(DEAD_LETTERS,))
    try:
        address = progress.address = await bus.publish(request)
        async with aclosing(_until_ended(bus, arrived, progress, steps=steps)) as told:
            yield address, told
    finally:
        for subscription in (follow, unread):
            subscription.disable()
            # A handler that waits for room would hold up its own end.
            while not arrived.empty():
                arrived.get_nowait()
            await bus.unsubscribe(subscription)


async def _until_ended(
    bus: EventBus, arrived: asyncio.Queue[Delivery], progress: Progress, *, steps: bool
) -> AsyncGenerator[Told]:
    answer = Answer(steps=steps)
    while not answer.position.ended:
        delivery = await arrived.get()
        match delivery.event:
            case DeadLetter(source=source) if source != progress.address:
                continue
            case DeadLetter():
                yield Told(delivery)
                return
            case Decision():
                progress.taken_up = progress.taken_up or delivery.event.admitted
                continue
            case AgentToken() | AgentStep():
                progress.taken_up = True
        pieces = answer.take(delivery)
        match pieces:
            case (*_, Ended(result=result)):
                yield Told(delivery, pieces, await _is_unpriced(bus, result))
            case _:
                yield Told(delivery, pieces)


async def _is_unpriced(bus: EventBus, result: AgentResult) -> bool:
    """Tell whether nothing was counted since no price is known; costs stand beside their result."""
    if result.cost_micros or not (result.usage.input_tokens or result.usage.output_tokens):
        return False
    wanted = EventFilter(user_id=result.user_id, tenant=result.tenant, request_id=result.request_id)
    found = await bus.history(topics=(COSTS,), filter=wanted, limit=1)
    cost = found[-1].event if found else None
    return isinstance(cost, CostRecorded) and cost.price_digest == UNPRICED


def _of(request: AgentRequest) -> EventFilter:
    return EventFilter(
        user_id=request.user_id, tenant=request.tenant, request_id=request.request_id
    )
