"""The event bus over any record log; `KafkaBus` and `MemoryBus` are this over theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from aiokafka import TopicPartition

from millstream.schemas.base import Address, Event
from millstream.schemas.dead_letters import DeadLetter, DeadLetterRedriven
from millstream.schemas.errors import InputTooLarge, Misconfigured, NoSuchPartition
from millstream.schemas.lane_events import LaneOpened, LaneSnapshot, StageRequest
from millstream.schemas.topics import TopicSpec, catalogue, stage_topic
from millstream.streams.broker.batches import Outgoing
from millstream.streams.bus.api import (
    EVERYTHING,
    NOW,
    BusHooks,
    Delivery,
    EventFilter,
    Handler,
    Start,
    Subscription,
)
from millstream.streams.bus.delivery_queue import DeliveryQueue
from millstream.streams.bus.fanout import Fanout
from millstream.streams.bus.newest import newest
from millstream.streams.bus.record_log import Entry, Positions, RecordLog, scope_of
from millstream.streams.bus.subscription import HandlerSubscription
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import encode
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.trace import Trace, new_trace

__all__ = ["HISTORY_MAX", "LogBus"]

_Route = tuple[str, TopicSpec]
"""Where an event goes: the topic's physical name, and what the catalogue says of it."""

_REST_BYTES_MAX = 65_536
"""More than any key and headers of ours: identifiers are bounded."""

HISTORY_MAX = 10_000
"""Most events that `history` gives at once; `history/replay.py` replays more than fit in memory."""


class LogBus:
    """Implements `millstream.streams.bus.api.EventBus`; see there for what each method promises."""

    def __init__(self, settings: Settings, log: RecordLog, hooks: BusHooks) -> None:
        self._settings = settings
        self._log = log
        self._hooks = hooks
        self._source = f"/millstream/{settings.namespace}"
        self._specs = {spec.event: spec for spec in catalogue()}
        self._routes: dict[type[Event], _Route] = {}
        self._counts: dict[str, int] = {}
        self._reader = log.reader()
        self._fanout = Fanout(self._reader, hooks.on_unreadable)
        self._reading: asyncio.Task[None] | None = None
        self._subscriptions: set[HandlerSubscription] = set()
        self._tails: set[DeliveryQueue] = set()

    @property
    def unreadable(self) -> int:
        """Records that were passed over since the start because they could not be read."""
        return self._fanout.unreadable

    async def __aenter__(self) -> Self:
        """Connect."""
        await self._log.start()
        try:
            await self._reader.start()
        except BaseException:
            await self._log.stop()
            raise
        self._reading = asyncio.create_task(self._fanout.run(), name="bus-reader")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop everything; a subscription that is stopped twice is stopped."""
        for box in self._tails:
            box.close()
        await asyncio.gather(*(self.unsubscribe(one) for one in tuple(self._subscriptions)))
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        await self._reader.stop()
        await self._log.stop()

    async def publish(self, event: Event) -> Address:
        """Append an event to its topic."""
        topic, _ = route = self._route_of(event)
        count = self._counts.get(topic) or (await self._counted([topic]))[topic]
        return await self._log.append(self._outgoing(event, route, count, None))

    async def publish_batch(self, events: Sequence[Event]) -> list[Address]:
        """Append events, all of them in one trace."""
        routes = [self._route_of(event) for event in events]
        counts = await self._counted({topic for topic, _ in routes})
        trace = new_trace()
        return await self._log.append_all(
            self._outgoing(event, route, counts[route[0]], trace)
            for event, route in zip(events, routes, strict=True)
        )

    async def subscribe(
        self,
        handler: Handler,
        *,
        topics: Sequence[TopicSpec],
        filter: EventFilter = EVERYTHING,  # noqa: A002
        name: str | None = None,
    ) -> Subscription:
        """Call `handler` for what is committed from now on."""
        box = await self._open(topics, NOW, filter)
        known = name or str(getattr(handler, "__qualname__", type(handler).__name__))
        subscription = HandlerSubscription(known, handler, box, self._hooks)
        self._subscriptions.add(subscription)
        subscription.start()
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Call the handler no more."""
        if isinstance(subscription, HandlerSubscription) and subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self._fanout.remove(subscription.queue)
            await subscription.stop()

    async def history(
        self,
        *,
        topics: Sequence[TopicSpec],
        filter: EventFilter = EVERYTHING,  # noqa: A002
        limit: int = 100,
    ) -> list[Delivery]:
        """Read the newest events back; `limit` is at most `HISTORY_MAX`."""
        if not 1 <= limit <= HISTORY_MAX:
            raise Misconfigured(f"limit is {limit}; history gives 1 to {HISTORY_MAX} events")
        names = [self._settings.topic(spec.name) for spec in topics]
        scope = scope_of(self._settings, topics, filter, await self._counted(names))
        reader = self._log.reader()
        try:
            await reader.start()
            return await newest(reader, scope, filter, limit)
        finally:
            await reader.stop()

    @asynccontextmanager
    async def tail(
        self,
        topics: Sequence[TopicSpec],
        from_: Start = NOW,
        filter: EventFilter = EVERYTHING,  # noqa: A002
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        """Follow topics; the iterator ends when the bus is stopped."""
        async with self._tail(await self._open(topics, from_, filter)) as box:
            yield _deliveries(box)

    @asynccontextmanager
    async def tail_records(
        self,
        topics: Sequence[TopicSpec],
        from_: Start = NOW,
        filter: EventFilter = EVERYTHING,  # noqa: A002
    ) -> AsyncIterator[AsyncIterator[Entry]]:
        """Follow topics, and be given what cannot be read, too."""
        opened = await self._open(topics, from_, filter, takes_unreadable=True)
        async with self._tail(opened) as box:
            yield _records(box)

    @asynccontextmanager
    async def _tail(self, box: DeliveryQueue) -> AsyncIterator[DeliveryQueue]:
        self._tails.add(box)
        try:
            yield box
        finally:
            self._tails.discard(box)
            self._fanout.remove(box)
            box.close()

    async def starts(
        self,
        topics: Sequence[TopicSpec],
        from_: Start,
        filter: EventFilter = EVERYTHING,  # noqa: A002
    ) -> list[Address]:
        """Give where reading would begin."""
        _, positions = await self._begin(topics, from_, filter)
        return [
            Address(topic=one.topic, partition=one.partition, offset=offset)
            for one, offset in positions.items()
        ]

    async def _open(
        self,
        topics: Sequence[TopicSpec],
        start: Start,
        wanted: EventFilter,
        *,
        takes_unreadable: bool = False,
    ) -> DeliveryQueue:
        scope, positions = await self._begin(topics, start, wanted)
        box = DeliveryQueue(
            wanted, positions, self._fanout.steer, takes_unreadable=takes_unreadable
        )
        self._fanout.add(box, scope)
        return box

    async def _begin(
        self, topics: Sequence[TopicSpec], start: Start, wanted: EventFilter
    ) -> tuple[dict[TopicPartition, TopicSpec], Positions]:
        if self._reading is None:
            message = "the bus is not started; use it as `async with bus:`"
            raise Misconfigured(message)
        names = [self._settings.topic(spec.name) for spec in topics]
        counts = await self._counted(names)
        only = getattr(start, "partition", None)
        scope = scope_of(self._settings, topics, wanted, counts, only=only)
        if only is not None and not scope:
            # Whoever follows it would wait for ever.
            homes = {one.partition for one in scope_of(self._settings, topics, wanted, counts)}
            raise NoSuchPartition(
                f"partition {only} holds nothing of user {wanted.user_key!r}, "
                f"whose partition is {', '.join(map(str, sorted(homes)))}"
            )
        return scope, await self._reader.offsets(scope, start)

    async def _counted(self, topics: Sequence[str] | set[str]) -> dict[str, int]:
        missing = [topic for topic in topics if topic not in self._counts]
        if missing:
            self._counts.update(await self._log.partition_counts(missing))
        return self._counts

    def _route_of(self, event: Event) -> _Route:
        kind = type(event)
        known = self._routes.get(kind)
        if known is not None:
            return known
        if isinstance(event, StageRequest):  # its topic is named in the event, so not remembered
            spec = stage_topic(event.stage)
            return self._settings.topic(spec.name), spec
        for ancestor in kind.__mro__:
            if spec_of_kind := self._specs.get(ancestor):
                route = self._settings.topic(spec_of_kind.name), spec_of_kind
                self._routes[kind] = route
                return route
        raise Misconfigured(f"no topic of the catalogue holds {kind.__name__}")

    def _outgoing(self, event: Event, route: _Route, count: int, trace: Trace | None) -> Outgoing:
        topic, spec = route
        match event:
            case LaneOpened() | LaneSnapshot():
                partition = event.partition
            case DeadLetter() | DeadLetterRedriven():
                partition = event.source.partition % count
            case _:
                partition = home_partition(event.partition_key, count)
        encoded = encode(event, source=self._source, traceparent=trace)
        limit = spec.record_bytes_max
        # Most are far below the limit: adding up their headers would cost more than the check.
        if len(encoded.value or b"") + _REST_BYTES_MAX > limit and encoded.content_bytes > limit:
            raise InputTooLarge(
                f"{type(event).__name__} {event.event_id} is {encoded.content_bytes} bytes as a "
                f"record; the limit is {limit}"
            )
        return Outgoing(topic, partition, encoded)


async def _deliveries(box: DeliveryQueue) -> AsyncIterator[Delivery]:
    while (delivery := await box.delivery()) is not None:
        yield delivery


async def _records(box: DeliveryQueue) -> AsyncIterator[Entry]:
    while (entry := await box.get()) is not None:
        yield entry
