"""The event bus: its port, what it delivers, and the accessor of the one global bus.

A handler is called only for a record that was read back from its topic, also when this very
process published it: so what one process sees is what every process sees.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from millstream.schemas.base import DEFAULT_TENANT, Address, Event, partition_key
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.errors import Misconfigured, Poison
from millstream.schemas.topics import TopicSpec
from millstream.streams.wire.named import Named, named_by_letter

__all__ = [
    "BEGINNING",
    "EVERYTHING",
    "NOW",
    "Beginning",
    "BusHooks",
    "Delivery",
    "EventBus",
    "EventFilter",
    "FromOffset",
    "FromTime",
    "Handler",
    "HandlerFailed",
    "Now",
    "Start",
    "Subscription",
    "Unreadable",
    "event_bus",
    "set_event_bus",
]


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event as it was read back: where its record stands, and the broker's time in milliseconds.

    A request comes as a `ResolvedRequest`, with the ids that its upstream left out. `came_as` is
    where a request or command first stood that was rerouted or put back, else `None`.
    """

    event: Event
    address: Address
    at_ms: int
    came_as: Address | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that is no event of its topic: where it stands, when it came, and why not.

    `named` is whom it names, as far as that can be told.
    """

    address: Address
    at_ms: int
    key: bytes | None
    error: Poison
    named: Named = field(default_factory=Named)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are wanted; what is left out matches all.

    `types` are the events' `type` words. A user without a tenant is one of the default tenant.
    """

    types: frozenset[str] = frozenset()
    user_id: str | None = None
    tenant: str | None = None
    session_id: str | None = None
    request_id: str | None = None

    @property
    def user_key(self) -> str | None:
        """The user's partition key; `None` where no user is named.

        It says where the user's records stand, not whose they are: user `b` of tenant `a` and user
        `a/b` of the default tenant have one.
        """
        if self.user_id is None:
            return None
        return partition_key(self.tenant or DEFAULT_TENANT, self.user_id)

    def matches(self, event: Event) -> bool:
        """Whether the event is wanted; a dead letter is by what its record names."""
        if isinstance(event, DeadLetter) and self.names_anybody:
            return self._matches_letter(event)
        if self.user_id is not None:
            whose = (self.tenant or DEFAULT_TENANT, self.user_id)
            if (event.tenant, event.user_id) != whose:
                return False
        elif self.tenant is not None and event.tenant != self.tenant:
            return False
        return (
            (not self.types or getattr(event, "type", None) in self.types)
            and (self.session_id is None or getattr(event, "session_id", None) == self.session_id)
            and (self.request_id is None or getattr(event, "request_id", None) == self.request_id)
        )

    def matches_unreadable(self, record: Unreadable) -> bool:
        """Whether a record is wanted that is no event: by its key, and what can be read of it."""
        return not self.types and self._matches_named(record.named)

    @property
    def names_anybody(self) -> bool:
        """Whether a user, tenant, session or request is named."""
        whom = (self.user_id, self.tenant, self.session_id, self.request_id)
        return any(one is not None for one in whom)

    def _matches_letter(self, letter: DeadLetter) -> bool:
        if self.types and letter.type not in self.types:
            return False
        named = named_by_letter(letter)
        if named.tenant is None:
            named = replace(named, tenant=letter.tenant)
        if named.user_id is None:
            named = replace(named, user_id=letter.user_id)
        return self._matches_named(named)

    def _matches_named(self, named: Named) -> bool:
        if self.user_id is not None:
            if not named.is_of_user(self.tenant or DEFAULT_TENANT, self.user_id):
                return False
        elif self.tenant is not None and named.tenant != self.tenant:
            return False
        return (self.session_id is None or named.session_id == self.session_id) and (
            self.request_id is None or self.request_id in named.request_ids
        )


EVERYTHING = EventFilter()


@dataclass(frozen=True, slots=True)
class Now:
    """From the records that are committed after the call."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """From the oldest record that the topic still has."""


@dataclass(frozen=True, slots=True)
class FromOffset:
    """From an offset: of one partition, or without `partition` of each of them.

    An offset past the end means the end, one that is gone means the oldest there is.
    """

    offset: int
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class FromTime:
    """From the first record that the broker took at `at_ms` or later."""

    at_ms: int


Start = Now | Beginning | FromOffset | FromTime
NOW = Now()
BEGINNING = Beginning()

Handler = Callable[[Delivery], Awaitable[None] | None]
"""Takes a delivery. A synchronous one runs on the event loop, so it must be short."""


@dataclass(frozen=True, slots=True)
class HandlerFailed:
    """A handler raised `error` for `delivery`; the delivery is not given to it again."""

    subscription: str
    delivery: Delivery
    error: Exception


@dataclass(frozen=True, slots=True)
class BusHooks:
    """What is called, beside the log line, when a handler fails or a record cannot be read."""

    on_handler_error: Callable[[HandlerFailed], None] = lambda _: None
    on_unreadable: Callable[[Unreadable], None] = lambda _: None


class Subscription(Protocol):
    """One handler's place on the bus; the counters are from its start."""

    name: str
    delivered: int
    failed: int

    @property
    def enabled(self) -> bool:
        """Whether the handler is called."""

    @property
    def queued(self) -> int:
        """Deliveries that wait for the handler."""

    def enable(self) -> None:
        """Call the handler again, for the records read from here on."""

    def disable(self) -> None:
        """Stop calling the handler: what waits and what is read until `enable` passes it by."""


class EventBus(Protocol):
    """Publishes events to their topics and hands the topics' records to handlers and iterators.

    Back-pressure: each subscription and tail has a bounded queue. When it is full, the bus goes
    on for the others and reads the topic again for this one once half its queue is free. Nothing
    is lost while the topic's retention keeps it, no handler waits for another, and the order
    within a partition holds for each.
    """

    async def publish(self, event: Event) -> Address:
        """Append an event to its topic; return where it stands once Kafka has acknowledged it.

        Raises `InputTooLarge` for a record above the limit, `ServiceUnavailable` if no
        acknowledgement came in time: the record may then have been written all the same.
        """

    async def publish_batch(self, events: Sequence[Event]) -> list[Address]:
        """Append events; return their addresses, in their order, once all are acknowledged.

        Keeps their order within a partition. Not atomic: if it raises, as `publish` does, some
        of them may have been written. Nothing is written if one of them is too large.
        """

    async def subscribe(
        self,
        handler: Handler,
        *,
        topics: Sequence[TopicSpec],
        filter: EventFilter = EVERYTHING,  # noqa: A002  the name it was asked for by
        name: str | None = None,
    ) -> Subscription:
        """Call `handler` for each matching record that is committed after this returns.

        One call at a time, in the order of each partition. A call that raises is counted, logged
        and told to the hook; the handler is not called for that record again.
        Raises `Misconfigured` for a topic that does not exist.
        """

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Let the running call end (for a bounded time), then call the handler no more."""

    async def history(
        self,
        *,
        topics: Sequence[TopicSpec],
        filter: EventFilter = EVERYTHING,  # noqa: A002
        limit: int = 100,
    ) -> list[Delivery]:
        """Read the newest `limit` matching events back from the topics, oldest of them first."""

    def tail(
        self,
        topics: Sequence[TopicSpec],
        from_: Start = NOW,
        filter: EventFilter = EVERYTHING,  # noqa: A002
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery]]:
        """Follow topics without an end: `async with bus.tail(...) as deliveries: async for ...`.

        The start is fixed when the context is entered, so what is published in it is seen.
        """

    def tail_records(
        self,
        topics: Sequence[TopicSpec],
        from_: Start = NOW,
        filter: EventFilter = EVERYTHING,  # noqa: A002
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery | Unreadable]]:
        """Follow topics as `tail` does, and be given what cannot be read, too, in its place."""

    async def starts(
        self,
        topics: Sequence[TopicSpec],
        from_: Start,
        filter: EventFilter = EVERYTHING,  # noqa: A002
    ) -> list[Address]:
        """Give where a `tail` of the same arguments would begin now, in each partition it reads."""

    async def __aenter__(self) -> Self:
        """Connect. Raises `ServiceUnavailable`, naming the address, if Kafka does not answer."""

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop all subscriptions and tails, send out what is under way, disconnect."""


_global_bus: EventBus | None = None


def set_event_bus(bus: EventBus | None) -> None:
    """Make `bus` the global one; the composition root does this, and `None` takes it back."""
    global _global_bus  # noqa: PLW0603  the one accessor that was asked for
    _global_bus = bus


def event_bus() -> EventBus:
    """Give the global bus. Raises `Misconfigured` if the root has set none."""
    if _global_bus is None:
        message = "there is no global event bus; the composition root calls set_event_bus"
        raise Misconfigured(message)
    return _global_bus
