"""What handlers get of every event bus, whatever its records stand on."""

from __future__ import annotations

import asyncio

import pytest

from millstream.schemas.dead_letters import NotJson
from millstream.schemas.errors import Misconfigured
from millstream.schemas.events import AgentRequest, AgentToken
from millstream.schemas.topics import COSTS, REQUESTS, TOKENS, TopicSpec
from millstream.streams.bus.api import (
    BusHooks,
    Delivery,
    EventBus,
    EventFilter,
    HandlerFailed,
    Unreadable,
)
from millstream.streams.bus.delivery_queue import RECORDS_MAX
from millstream.streams.wire.partitioning import home_partition
from tests.contracts.bus_world import Inbox, World, cost, token
from tests.support import eventually


class SubscribingContract:
    """Cases of handlers; a subclass gives the `world` and the `bus` fixtures."""

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
