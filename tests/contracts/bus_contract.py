"""What every event bus does, whatever its records stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from millstream.schemas.dead_letters import NotJson
from millstream.schemas.errors import InputTooLarge, Misconfigured, NoSuchPartition
from millstream.schemas.topics import INPUT_BYTES_MAX, REQUESTS, TOKENS
from millstream.streams.bus.api import (
    BEGINNING,
    BusHooks,
    EventBus,
    EventFilter,
    FromOffset,
    FromTime,
    Unreadable,
    event_bus,
    set_event_bus,
)
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.contracts.bus_world import Inbox, World, cost, token
from tests.contracts.subscribing_contract import SubscribingContract
from tests.support import eventually


class BusContract(SubscribingContract):
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

    async def test_a_request_that_no_worker_would_read_is_refused_by_its_headers_too(
        self, bus: EventBus
    ) -> None:
        fits = making.request(input="x" * (INPUT_BYTES_MAX - 4_000))
        await bus.publish(fits)
        with pytest.raises(InputTooLarge, match="limit"):
            await bus.publish(making.request(input="x" * (INPUT_BYTES_MAX - 100)))

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
        self, world: World, bus: EventBus
    ) -> None:
        partitions = world.settings.partitions
        home = home_partition("ada", partitions)
        wanted = EventFilter(user_id="ada")
        with pytest.raises(NoSuchPartition, match=f"'ada', whose partition is {home}"):
            async with bus.tail([TOKENS], FromOffset(0, partition=(home + 1) % partitions), wanted):
                pass
        async with bus.tail([TOKENS], FromOffset(0, partition=home), wanted) as coming:
            await bus.publish(token(0))
            assert (await anext(coming)).event == token(0)

    async def test_tail_of_a_partition_that_there_is_not_says_so(
        self, world: World, bus: EventBus
    ) -> None:
        partitions = world.settings.partitions
        told = f"there are {partitions} partitions, 0 to {partitions - 1}"
        with pytest.raises(NoSuchPartition, match=told):
            async with bus.tail([TOKENS], FromOffset(5, partition=99)):
                pass

    async def test_tail_of_records_has_no_gap_where_a_record_cannot_be_read(
        self, world: World
    ) -> None:
        told: list[Unreadable] = []
        async with world.bus(BusHooks(on_unreadable=told.append)) as bus:
            home = home_partition("ada", world.settings.partitions)
            await bus.publish(token(0))
            where = await world.put(TOKENS, home, b"not json")
            await bus.publish(token(1))
            async with bus.tail_records([TOKENS], BEGINNING) as records:
                first, unread, last = [await anext(records) for _ in range(3)]
            async with bus.tail([TOKENS], BEGINNING) as deliveries:
                assert [(await anext(deliveries)).event for _ in range(2)] == [token(0), token(1)]
            of_ada = EventFilter(user_id="ada")  # that record has no key
            async with bus.tail_records([TOKENS], BEGINNING, of_ada) as records:
                addresses = [(await anext(records)).address for _ in range(2)]
        assert isinstance(unread, Unreadable)
        assert (unread.address, type(unread.error)) == (where, NotJson)
        assert addresses == [first.address, last.address]
        assert told
        assert {one.address for one in told} == {where}

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
