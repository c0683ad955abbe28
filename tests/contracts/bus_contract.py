"""What every event bus does, whatever its records stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Protocol

import pytest

from millstream.schemas.base import Address
from millstream.schemas.errors import InputTooLarge, Misconfigured, NoSuchPartition, NotJson
from millstream.schemas.events import AgentRequest, AgentToken, CostRecorded, Usage
from millstream.schemas.topics import COSTS, REQUESTS, TOKENS, TopicSpec
from millstream.streams.bus.api import (
    BEGINNING,
    BusHooks,
    Delivery,
    EventBus,
    EventFilter,
    FromOffset,
    FromTime,
    HandlerFailed,
    Unreadable,
    event_bus,
    set_event_bus,
)
from millstream.streams.bus.delivery_queue import RECORDS_MAX
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
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


class BusContract:
    """Cases of any bus; a subclass gives the `world` fixture."""

    @pytest.fixture
    async def bus(self, world: World) -> AsyncIterator[EventBus]:
        async with world.bus() as bus:
            yield bus

    # Publishing

    async def test_published_event_stands_at_the_address_that_publish_gave(
        self, world: World, bus: EventBus
    ) -> None:
        address = await bus.publish(token(0))
        (read,) = await bus.history(topics=[TOKENS])
        assert read.address == address
        assert read.event == token(0)
        assert read.at_ms > 0
        assert address.topic == world.settings.topic("tokens")

    async def test_event_goes_to_the_home_partition_of_its_user(
        self, world: World, bus: EventBus
    ) -> None:
        for user in ("ada", "grace", "edsger", "barbara"):
            address = await bus.publish(token(0, user=user))
            assert address.partition == home_partition(user, world.settings.partitions)

    async def test_batch_gives_the_addresses_in_the_order_of_the_events(
        self, bus: EventBus
    ) -> None:
        events = [token(seq, user=f"user-{seq % 5}") for seq in range(200)]
        addresses = await bus.publish_batch(events)
        read = {one.address: one.event for one in await bus.history(topics=[TOKENS], limit=1000)}
        assert [read[address] for address in addresses] == events

    async def test_batch_keeps_the_order_within_a_partition(self, bus: EventBus) -> None:
        events = [token(seq) for seq in range(500)]
        addresses = await bus.publish_batch(events)
        assert [address.offset for address in addresses] == list(range(500))

    async def test_batch_holds_events_of_several_topics(self, bus: EventBus) -> None:
        first, second = await bus.publish_batch([token(0), cost()])
        assert (first.topic.endswith("tokens"), second.topic.endswith("costs")) == (True, True)

    async def test_empty_batch_writes_nothing(self, bus: EventBus) -> None:
        assert await bus.publish_batch([]) == []

    async def test_too_large_an_event_is_refused_and_its_batch_with_it(self, bus: EventBus) -> None:
        huge = making.request(input="x" * 1_100_000)
        with pytest.raises(InputTooLarge, match="limit"):
            await bus.publish(huge)
        with pytest.raises(InputTooLarge):
            await bus.publish_batch([token(0), huge])
        assert await bus.history(topics=[TOKENS, REQUESTS]) == []

    # Subscribing

    async def test_handler_gets_what_another_bus_published(
        self, world: World, bus: EventBus
    ) -> None:
        inbox = Inbox()
        await bus.subscribe(inbox, topics=[TOKENS])
        async with world.bus() as other:
            address = await other.publish(token(0))
        await inbox.holds(token(0))
        assert inbox.deliveries[0].address == address

    async def test_handler_gets_nothing_from_before_it_subscribed(self, bus: EventBus) -> None:
        await bus.publish(token(0))
        inbox = Inbox()
        await bus.subscribe(inbox, topics=[TOKENS])
        await bus.publish(token(1))
        await inbox.holds(token(1))

    async def test_asynchronous_handler_is_awaited_before_its_next_call(
        self, bus: EventBus
    ) -> None:
        began: list[object] = []
        gate = asyncio.Event()

        async def handler(delivery: Delivery) -> None:
            began.append(delivery.event)
            await gate.wait()

        subscription = await bus.subscribe(handler, topics=[TOKENS])
        await bus.publish_batch([token(0), token(1)])
        await eventually(lambda: subscription.queued == 1)
        assert began == [token(0)]
        gate.set()
        await eventually(lambda: began == [token(0), token(1)])

    async def test_failing_handler_stops_neither_itself_nor_others(self, world: World) -> None:
        told: list[HandlerFailed] = []
        inbox = Inbox()

        def failing(delivery: Delivery) -> None:
            message = f"no to {delivery.event.event_id}"
            raise LookupError(message)

        async with world.bus(BusHooks(on_handler_error=told.append)) as bus:
            broken = await bus.subscribe(failing, topics=[TOKENS], name="broken")
            await bus.subscribe(inbox, topics=[TOKENS])
            await bus.publish_batch([token(0), token(1)])
            await inbox.holds(token(0), token(1))
            await eventually(lambda: broken.failed == 2)
            assert broken.delivered == 0
        assert [failure.delivery.event for failure in told] == [token(0), token(1)]
        assert {failure.subscription for failure in told} == {"broken"}
        assert isinstance(told[0].error, LookupError)

    async def test_filters_choose_by_type_user_session_and_request(self, bus: EventBus) -> None:
        filters = {
            "type": EventFilter(types=frozenset({"cost"})),
            "user": EventFilter(user_id="grace"),
            "session": EventFilter(session_id="s2"),
            "request": EventFilter(request_id="r2"),
            "tenant": EventFilter(tenant="acme"),
            "slash": EventFilter(user_id="acme/ada"),
            "all": EventFilter(),
        }
        inboxes = {name: Inbox() for name in filters}
        for name, wanted in filters.items():
            await bus.subscribe(inboxes[name], topics=[TOKENS, COSTS], filter=wanted)
        of_grace = token(1, user="grace")
        other = token(2, request="r2", session="s2")
        of_acme = token(3).model_copy(update={"tenant": "acme"})
        # It stands where the one of the tenant does, under the same key.
        slashed = token(4, user="acme/ada")
        published = [token(0), of_grace, other, of_acme, slashed, cost()]
        for event in published:
            await bus.publish(event)
        await eventually(lambda: len(inboxes["all"].events) == len(published))
        await inboxes["type"].holds(cost())
        await inboxes["user"].holds(of_grace)
        await inboxes["session"].holds(other)
        await inboxes["request"].holds(other)
        await inboxes["tenant"].holds(of_acme)
        await inboxes["slash"].holds(slashed)

    async def test_unsubscribed_handler_is_called_no_more(self, bus: EventBus) -> None:
        gone, stays = Inbox(), Inbox()
        subscription = await bus.subscribe(gone, topics=[TOKENS])
        await bus.subscribe(stays, topics=[TOKENS])
        await bus.publish(token(0))
        await gone.holds(token(0))
        await bus.unsubscribe(subscription)
        await bus.publish(token(1))
        await stays.holds(token(0), token(1))
        assert gone.events == [token(0)]

    async def test_handler_may_end_its_own_subscription(self, bus: EventBus) -> None:
        seen: list[object] = []
        stays = Inbox()

        async def once(delivery: Delivery) -> None:
            seen.append(delivery.event)
            await bus.unsubscribe(subscription)

        subscription = await bus.subscribe(once, topics=[TOKENS])
        await bus.subscribe(stays, topics=[TOKENS])
        await bus.publish_batch([token(0), token(1)])
        await stays.holds(token(0), token(1))
        await eventually(lambda: seen == [token(0)])

    async def test_disabled_handler_is_passed_by_until_it_is_enabled(self, bus: EventBus) -> None:
        inbox, all_of_them = Inbox(), Inbox()
        subscription = await bus.subscribe(inbox, topics=[TOKENS])
        await bus.subscribe(all_of_them, topics=[TOKENS])
        await bus.publish(token(0))
        await inbox.holds(token(0))
        subscription.disable()
        assert not subscription.enabled
        await bus.publish(token(1))
        await all_of_them.holds(token(0), token(1))
        subscription.enable()
        await bus.publish(token(2))
        await inbox.holds(token(0), token(2))

    async def test_slow_handler_loses_nothing_and_holds_nobody_up(self, bus: EventBus) -> None:
        count = 3 * RECORDS_MAX
        gate = asyncio.Event()
        slow: dict[int, list[object]] = {}
        quick = Inbox()

        async def handler(delivery: Delivery) -> None:
            await gate.wait()
            slow.setdefault(delivery.address.partition, []).append(delivery.event)

        await bus.subscribe(handler, topics=[TOKENS])
        await bus.subscribe(quick, topics=[TOKENS])
        users = ("ada", "grace", "edsger")
        events = [token(seq, user=users[seq % 3]) for seq in range(count)]
        await bus.publish_batch(events)
        await eventually(lambda: len(quick.events) == count)
        gate.set()
        await eventually(lambda: sum(map(len, slow.values())) == count)
        expected: dict[int, list[object]] = {}
        for delivery in quick.deliveries:
            expected.setdefault(delivery.address.partition, []).append(delivery.event)
        assert slow == expected
        for user in users:
            of_user = [event for event in events if event.user_id == user]
            assert [e for e in quick.events if getattr(e, "user_id", "") == user] == of_user

    async def test_unreadable_record_is_told_and_passed_over(self, world: World) -> None:
        told: list[Unreadable] = []
        inbox = Inbox()
        async with world.bus(BusHooks(on_unreadable=told.append)) as bus:
            await bus.subscribe(inbox, topics=[TOKENS])
            await bus.subscribe(Inbox(), topics=[TOKENS])
            where = await world.put(
                TOKENS, home_partition("ada", world.settings.partitions), b"not json"
            )
            await bus.publish(token(0))
            await inbox.holds(token(0))
        assert [(one.address, type(one.error)) for one in told] == [(where, NotJson)]

    async def test_request_is_delivered_with_the_ids_its_upstream_left_out(
        self, world: World, bus: EventBus
    ) -> None:
        inbox = Inbox()
        await bus.subscribe(inbox, topics=[REQUESTS])
        where = await world.put(REQUESTS, 0, b'{"user_id": "ada", "input": "hello"}')
        await eventually(lambda: inbox.deliveries)
        request = inbox.events[0]
        assert isinstance(request, AgentRequest)
        assert (request.request_id, request.session_id) == (str(where), str(where))

    async def test_unknown_topic_is_refused_by_name(self, bus: EventBus) -> None:
        missing = TopicSpec("nowhere", AgentToken, "user", "A topic nobody created", None)
        with pytest.raises(Misconfigured, match="nowhere"):
            await bus.subscribe(Inbox(), topics=[missing])

    # History

    async def test_history_gives_the_newest_oldest_first(self, bus: EventBus) -> None:
        for seq in range(5):
            await bus.publish(token(seq, user=f"user-{seq}"))
        read = await bus.history(topics=[TOKENS], limit=3)
        assert len(read) == 3
        assert [one.at_ms for one in read] == sorted(one.at_ms for one in read)
        everything = await bus.history(topics=[TOKENS], limit=10)
        assert everything[-3:] == read

    async def test_history_finds_a_rare_match_behind_many_others(self, bus: EventBus) -> None:
        await bus.publish(token(0, request="rare"))
        await bus.publish_batch([token(seq) for seq in range(3000)])
        (read,) = await bus.history(topics=[TOKENS], filter=EventFilter(request_id="rare"), limit=2)
        assert read.event == token(0, request="rare")

    async def test_history_refuses_a_size_that_is_not_bounded(self, bus: EventBus) -> None:
        with pytest.raises(Misconfigured, match="limit"):
            await bus.history(topics=[TOKENS], limit=10**9)

    # Tails

    async def test_tail_from_now_gives_what_comes_next(self, bus: EventBus) -> None:
        await bus.publish(token(0))
        async with bus.tail([TOKENS]) as deliveries:
            await bus.publish(token(1))
            assert (await anext(deliveries)).event == token(1)

    async def test_tail_starts_at_an_offset_at_a_time_or_at_the_beginning(
        self, bus: EventBus
    ) -> None:
        first = await bus.publish(token(0))
        (read,) = await bus.history(topics=[TOKENS])

        async def later() -> bool:
            # The broker's clock must have moved on, or no time lies between the two records.
            await bus.publish(token(1))
            (_, second) = await bus.history(topics=[TOKENS], limit=2)
            return second.at_ms > read.at_ms

        await eventually(later)
        (newest,) = await bus.history(topics=[TOKENS], limit=1)
        async with bus.tail([TOKENS], BEGINNING) as deliveries:
            assert (await anext(deliveries)).event == token(0)
        start = FromOffset(first.offset + 1, partition=first.partition)
        async with bus.tail([TOKENS], start) as deliveries:
            assert (await anext(deliveries)).address.offset == first.offset + 1
        async with bus.tail([TOKENS], FromTime(newest.at_ms)) as deliveries:
            assert (await anext(deliveries)).at_ms == newest.at_ms

    async def test_tail_of_a_partition_that_is_not_the_user_s_says_which_is(
        self, bus: EventBus
    ) -> None:
        home = home_partition("ada", 4)
        wanted = EventFilter(user_id="ada")
        with pytest.raises(NoSuchPartition, match=f"'ada', whose partition is {home}"):
            async with bus.tail([TOKENS], FromOffset(0, partition=(home + 1) % 4), wanted):
                pass
        async with bus.tail([TOKENS], FromOffset(0, partition=home), wanted) as coming:
            await bus.publish(token(0))
            assert (await anext(coming)).event == token(0)

    async def test_tail_of_a_partition_that_there_is_not_says_so(self, bus: EventBus) -> None:
        with pytest.raises(NoSuchPartition, match="there are 4 partitions, 0 to 3"):
            async with bus.tail([TOKENS], FromOffset(5, partition=99)):
                pass

    async def test_tail_from_the_beginning_runs_beside_a_handler(self, bus: EventBus) -> None:
        inbox = Inbox()
        events = [token(seq) for seq in range(2500)]
        await bus.publish_batch(events)
        await bus.subscribe(inbox, topics=[TOKENS])
        async with bus.tail([TOKENS], BEGINNING) as deliveries:
            await bus.publish(token(9999))
            read = [(await anext(deliveries)).event for _ in range(2501)]
        assert read == [*events, token(9999)]
        await inbox.holds(token(9999))

    async def test_tail_ends_when_the_bus_stops(self, world: World) -> None:
        async with AsyncExitStack() as stack:
            bus = await stack.enter_async_context(world.bus())
            deliveries = await stack.enter_async_context(bus.tail([TOKENS]))
            waiting = asyncio.ensure_future(anext(deliveries, None))
            await bus.__aexit__(None, None, None)
            assert await waiting is None

    # The global bus

    async def test_global_bus_is_the_one_that_the_root_set(self, bus: EventBus) -> None:
        with pytest.raises(Misconfigured, match="set_event_bus"):
            event_bus()
        set_event_bus(bus)
        try:
            assert event_bus() is bus
        finally:
            set_event_bus(None)
