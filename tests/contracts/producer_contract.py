"""What producers do on whatever broker: plain ones, and those of transactions."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    IllegalOperation,
    InvalidProducerEpoch,
    KafkaError,
    MessageSizeTooLargeError,
    ProducerClosed,
    ProducerFenced,
)

from millstream.streams.broker.clients import REQUEST_BYTES_MAX
from millstream.streams.wire.partitioning import home_partition
from tests.contracts.log_world import (
    PRODUCE_BYTES_SMALL,
    LogWorld,
    all_committed,
    end_of,
    sent,
    soon,
    started,
    turns,
    written,
)

FENCED = (ProducerFenced, InvalidProducerEpoch, IllegalOperation)


async def read(world: LogWorld, where: TopicPartition, **more: float) -> list[bytes | None]:
    return [record.value for record in await all_committed(world, where, **more)]


class ProducerContract:
    """Cases of producers; a subclass gives the `world` fixture."""

    # Plain ones

    async def test_what_is_sent_stands_in_its_order_and_is_acknowledged_with_its_place(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with started(world.plain_producer()) as producer:
            sends = [
                await producer.send(log.topic, b"%d" % number, b"k", 0, headers=[("h", b"v")])
                for number in range(100)
            ]
            assert not sends[0].done()  # nothing is acknowledged before the broker has it
            places = await soon(asyncio.gather(*sends))
        assert [place.offset for place in places] == list(range(100))
        assert await read(world, log) == [b"%d" % number for number in range(100)]

    async def test_what_was_handed_over_is_sent_though_nobody_waits_for_it(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with started(world.plain_producer()) as producer:
            first = await producer.send(log.topic, b"first", b"k", 0)
            first.cancel()
            await producer.send(log.topic, b"second", b"k", 0)
        assert await read(world, log) == [b"first", b"second"]

    async def test_what_a_producer_has_taken_is_sent_before_it_stops_and_then_it_takes_no_more(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with started(world.plain_producer()) as producer:
            taken = await producer.send(log.topic, b"taken", b"k", 0)
        assert (await soon(taken)).offset == 0
        with pytest.raises(ProducerClosed):
            await producer.send(log.topic, b"late", b"k", 0)
        assert await read(world, log) == [b"taken"]

    async def test_a_key_has_its_place_by_murmur2(self, world: LogWorld) -> None:
        log = await world.create("log", partitions=5)
        async with started(world.plain_producer()) as producer:
            for user in ("ada", "bob", "ünïcode", ""):
                place = await producer.send_and_wait(log.topic, b"v", user.encode())
                assert place.partition == home_partition(user, 5)

    async def test_a_record_that_no_request_holds_is_refused_when_it_is_handed_over(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with started(world.plain_producer()) as producer:
            with pytest.raises(MessageSizeTooLargeError):
                await producer.send(log.topic, b"x" * (REQUEST_BYTES_MAX + 1), b"k", 0)
            await producer.send_and_wait(log.topic, b"next", b"k", 0)
        assert await read(world, log) == [b"next"]

    async def test_a_record_that_the_broker_refuses_fails_its_own_send(
        self, world: LogWorld
    ) -> None:
        log = await world.create("small", is_small=True)
        async with started(world.plain_producer()) as producer:
            await producer.send_and_wait(log.topic, b"before", b"k", 0)
            large = b"x" * 2 * PRODUCE_BYTES_SMALL
            with pytest.raises(MessageSizeTooLargeError):
                await soon(producer.send_and_wait(log.topic, large, b"k", 0))
        assert await read(world, log) == [b"before"]

    # Those of transactions

    async def test_nothing_of_a_transaction_is_read_before_it_is_committed(
        self, world: LogWorld
    ) -> None:
        one, other = [await world.create(name) for name in ("one", "other")]
        async with started(world.producer("p")) as producer, started(world.reader()) as reader:
            await producer.begin_transaction()
            places = [await soon(await sent(producer, log, b"0", b"1")) for log in (one, other)]
            assert [place.offset for place in places] == [0, 0]
            ends = await reader.high_watermarks([one, other])
            assert ends == {one: 2, other: 2}
            stable = await reader._consumer.end_offsets([one, other])  # type: ignore[union-attr]
            assert stable == {one: 0, other: 0}
            await producer.commit_transaction()
            # Its markers have an offset each.
            assert await reader.stable_high_watermarks([one]) in ({one: 2}, {one: 3})
        assert await read(world, one) == await read(world, other) == [b"0", b"1"]
        async with started(world.reader()) as reader:
            assert await end_of(reader, one) == 3

    async def test_transactions_of_one_producer_follow_one_another(self, world: LogWorld) -> None:
        log = await world.create("log")
        async with started(world.producer("p")) as producer:
            offsets = []
            for number in range(4):
                await producer.begin_transaction()
                place = await soon(await sent(producer, log, b"%d" % number))
                offsets.append(place.offset)
                await (
                    producer.abort_transaction() if number == 2 else producer.commit_transaction()
                )
        assert offsets == [0, 2, 4, 6]
        assert await read(world, log) == [b"0", b"1", b"3"]

    async def test_a_transaction_without_partitions_writes_nothing(self, world: LogWorld) -> None:
        log = await world.create("log")
        async with started(world.producer("p")) as producer, started(world.reader()) as reader:
            for _ in range(2):
                await producer.begin_transaction()
                await producer.commit_transaction()
            assert await end_of(reader, log) == 0

    async def test_partitions_that_are_expected_hold_back_nobody(self, world: LogWorld) -> None:
        log = await world.create("log")
        async with started(world.producer("p")) as producer:
            await producer.begin_transaction()
            producer.expect([log])
            await written(world, log, b"plain")
            assert await read(world, log, stall_s=5) == [b"plain"]
            await soon(await sent(producer, log, b"expected"))
            await producer.commit_transaction()
        assert await read(world, log) == [b"plain", b"expected"]

    async def test_what_is_sent_outside_a_transaction_is_refused(self, world: LogWorld) -> None:
        log = await world.create("log")
        async with started(world.producer("p")) as producer:
            with pytest.raises(IllegalOperation):
                await sent(producer, log, b"x")
            await producer.begin_transaction()
            await soon(await sent(producer, log, b"in"))
            await producer.commit_transaction()
            with pytest.raises(IllegalOperation):
                await sent(producer, log, b"x")
        assert await read(world, log) == [b"in"]

    async def test_a_transaction_commits_without_the_record_that_was_refused(
        self, world: LogWorld
    ) -> None:
        small, other = await world.create("small", is_small=True), await world.create("other")
        async with started(world.producer("p")) as producer:
            await producer.begin_transaction()
            refused = await sent(producer, small, b"x" * 2 * PRODUCE_BYTES_SMALL)
            await soon(await sent(producer, other, b"beside"))
            with pytest.raises(MessageSizeTooLargeError):
                await soon(refused)
            await producer.commit_transaction()
        assert await read(world, other) == [b"beside"]
        assert await read(world, small) == []

    async def test_whoever_was_refused_a_record_goes_on_by_its_successor_only(
        self, world: LogWorld
    ) -> None:
        small = await world.create("small", is_small=True)
        async with started(world.producer("p")) as producer:
            await producer.begin_transaction()
            with pytest.raises(MessageSizeTooLargeError):
                await soon(await sent(producer, small, b"x" * 2 * PRODUCE_BYTES_SMALL))
            await producer.abort_transaction()
            await producer.begin_transaction()
            with pytest.raises(KafkaError):
                await soon(await sent(producer, small, b"out of order"))
        async with started(producer.successor()) as successor:
            await successor.begin_transaction()
            await soon(await sent(successor, small, b"in order"))
            await successor.commit_transaction()
        assert await read(world, small) == [b"in order"]

    async def test_a_new_producer_of_the_id_aborts_what_is_open_and_fences(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with started(world.producer("p")) as first:
            await first.begin_transaction()
            await soon(await sent(first, log, b"lost"))
            async with started(world.producer("p")) as second:
                assert await read(world, log, stall_s=20) == []
                with pytest.raises(FENCED):
                    await soon(first.commit_transaction())
                await second.begin_transaction()
                await soon(await sent(second, log, b"second"))
                await second.commit_transaction()
        assert await read(world, log) == [b"second"]

    async def test_a_fenced_producer_writes_nothing_more(self, world: LogWorld) -> None:
        log = await world.create("log")
        async with started(world.producer("p")) as first, started(world.producer("p")):
            await first.begin_transaction()
            with pytest.raises((*FENCED, KafkaError)):
                await soon(await sent(first, log, b"late"))
            with pytest.raises((*FENCED, KafkaError, AssertionError)):
                await soon(first.commit_transaction())
            async with started(world.reader()) as reader:
                assert await end_of(reader, log) == 0

    async def test_producers_of_other_ids_are_not_fenced(self, world: LogWorld) -> None:
        log = await world.create("log")
        async with started(world.producer("one")) as one:
            await one.begin_transaction()
            await soon(await sent(one, log, b"one"))
            async with started(world.producer("other")) as other:
                await other.begin_transaction()
                await soon(await sent(other, log, b"other"))
                await other.commit_transaction()
            await one.commit_transaction()
        assert await read(world, log) == [b"one", b"other"]

    async def test_what_a_producer_leaves_open_is_open_until_its_successor_starts(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with started(world.producer("p")) as first:
            await first.begin_transaction()
            await soon(await sent(first, log, b"left"))
        await written(world, log, b"behind")
        waiting = asyncio.create_task(read(world, log))
        await asyncio.wait({waiting}, timeout=world.short_s)
        assert not waiting.done()
        async with started(world.producer("p")):
            assert await soon(waiting) == [b"behind"]

    async def test_a_commit_goes_on_though_nobody_waits_for_it_any_more(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with started(world.producer("p")) as producer:
            await producer.begin_transaction()
            await soon(await sent(producer, log, b"once"))
            committing = asyncio.create_task(producer.commit_transaction())
            await turns(1)
            committing.cancel()
            await asyncio.wait({committing})
            assert await read(world, log) == [b"once"]
