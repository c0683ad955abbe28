"""Where the contracts of event buses run, what they publish, and who listens."""

from __future__ import annotations

from typing import Protocol

from millstream.schemas.base import Address
from millstream.schemas.events import AgentToken, CostRecorded, Usage
from millstream.schemas.topics import TopicSpec
from millstream.streams.bus.api import BusHooks, Delivery, EventBus
from millstream.streams.settings import Settings
from tests import making
from tests.support import eventually


class World(Protocol):
    """Where buses run: topics exist, and whatever one bus publishes the others read."""

    settings: Settings

    def bus(self, hooks: BusHooks | None = None) -> EventBus:
        """Make another bus, as another process would, not started."""

    async def put(self, spec: TopicSpec, partition: int, value: bytes) -> Address:
        """Append any bytes."""


def token(seq: int, *, user: str = "ada", request: str = "r1", session: str = "s1") -> AgentToken:
    return making.token(
        user_id=user, request_id=request, session_id=session, attempt=0, seq=seq, text=f"word {seq}"
    )


def cost(user: str = "ada", request: str = "r1") -> CostRecorded:
    return making.cost(
        user_id=user,
        request_id=request,
        session_id="s1",
        model="scripted",
        usage=Usage(input_tokens=1, output_tokens=1),
        cost_micros=5,
        price_digest="none",
    )


class Inbox:
    """A handler that keeps what it is given."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    @property
    def events(self) -> list[object]:
        return [delivery.event for delivery in self.deliveries]

    async def holds(self, *events: object) -> None:
        await eventually(lambda: self.events == list(events))
