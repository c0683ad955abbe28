"""Following one request on the bus: its tokens and its result, or the dead letter it ended as."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from millstream.schemas.base import Address
from millstream.schemas.dead_letters import DeadLetter, RequestIdReused
from millstream.schemas.events import AgentRequest, AgentResult, Decision
from millstream.schemas.topics import DEAD_LETTERS, DECISIONS, RESULTS, TOKENS
from millstream.streams.bus.answer import Answer, Ended, Piece
from millstream.streams.bus.api import Delivery, EventBus, EventFilter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Told", "earlier_result", "submitted"]

_QUEUED_MAX = 1000


@dataclass(frozen=True, slots=True)
class Told:
    """A record that concerns the request, and what it adds to the answer."""

    delivery: Delivery
    pieces: tuple[Piece, ...] = ()


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
    bus: EventBus, request: AgentRequest
) -> AsyncGenerator[tuple[Address, AsyncIterator[Told]]]:
    """Publish a request, which has an id, and give its address and what comes of it.

    That ends with the piece `Ended`, or with the `DeadLetter` of its record. It is subscribed to
    before the request is published, so that nothing is missed.
    """
    arrived: asyncio.Queue[Delivery] = asyncio.Queue(_QUEUED_MAX)
    follow = await bus.subscribe(arrived.put, topics=(TOKENS, RESULTS), filter=_of(request))
    unread = await bus.subscribe(arrived.put, topics=(DEAD_LETTERS,))
    try:
        address = await bus.publish(request)
        async with aclosing(_until_ended(arrived, address)) as told:
            yield address, told
    finally:
        for subscription in (follow, unread):
            subscription.disable()
            # A handler that waits for room would hold up its own end.
            while not arrived.empty():
                arrived.get_nowait()
            await bus.unsubscribe(subscription)


async def _until_ended(arrived: asyncio.Queue[Delivery], address: Address) -> AsyncGenerator[Told]:
    answer = Answer()
    while not answer.position.ended:
        delivery = await arrived.get()
        match delivery.event:
            case DeadLetter(source=source) if source != address:
                continue
            case DeadLetter():
                yield Told(delivery)
                return
            case _:
                yield Told(delivery, answer.take(delivery))


def _of(request: AgentRequest) -> EventFilter:
    return EventFilter(
        user_id=request.user_id, tenant=request.tenant, request_id=request.request_id
    )
