"""What a producer does that is made anew, on whatever broker: plain sends, and what is refused."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import MessageSizeTooLargeError, ProducerClosed
from aiokafka.producer.message_accumulator import BatchBuilder

from millstream.streams.broker.clients import REQUEST_BYTES_MAX
from tests.contracts.log_world import (
    PRODUCE_BYTES_SMALL,
    LogWorld,
    all_committed,
    soon,
    started,
    turns,
)

LARGE = b"x" * 2 * PRODUCE_BYTES_SMALL


async def read(world: LogWorld, where: TopicPartition) -> list[bytes | None]:
    return [record.value for record in await all_committed(world, where)]


class RenewedProducerContract:
    """Cases of a `RenewedProducer`; a subclass gives the `world` fixture."""

    async def test_what_is_sent_stands_in_its_order_and_is_acknowledged_with_its_place(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with started(world.renewed_producer()) as producer:
            sends = [
                await producer.send(log.topic, b"%d" % number, b"k", 0, headers=[("h", b"v")])
                for number in range(100)
            ]
            places = await soon(asyncio.gather(*sends))
            assert producer.renewals == 0
        assert [place.offset for place in places] == list(range(100))
        assert await read(world, log) == [b"%d" % number for number in range(100)]

    async def test_a_record_that_is_refused_fails_its_own_send_and_no_other(
        self, world: LogWorld
    ) -> None:
        log, other = await world.create("small", is_small=True), await world.create("other")
        async with started(world.renewed_producer()) as producer:
            sends, beside = [], []
            for number in range(60):
                value = LARGE if number % 20 == 10 else b"%d" % number
                sends.append(await producer.send(log.topic, value, b"k", 0))
                beside.append(await producer.send(other.topic, b"%d" % number, b"k", 0))
            told = await soon(asyncio.gather(*sends, return_exceptions=True))
            await soon(asyncio.gather(*beside))
        refused = [number for number, one in enumerate(told) if isinstance(one, Exception)]
        assert refused == [10, 30, 50]
        assert all(isinstance(told[number], MessageSizeTooLargeError) for number in refused)
        wanted = [b"%d" % number for number in range(60) if number not in refused]
        assert await read(world, log) == wanted
        assert await read(world, other) == [b"%d" % number for number in range(60)]

    async def test_it_goes_on_after_each_record_that_is_refused(self, world: LogWorld) -> None:
        log = await world.create("small", is_small=True)
        async with started(world.renewed_producer()) as producer:
            for number in range(3):
                with pytest.raises(MessageSizeTooLargeError):
                    await soon(producer.send_and_wait(log.topic, LARGE, b"k", 0))
                await soon(producer.send_and_wait(log.topic, b"%d" % number, b"k", 0))
        assert await read(world, log) == [b"0", b"1", b"2"]

    async def test_a_batch_that_is_refused_fails_by_itself(self, world: LogWorld) -> None:
        log = await world.create("small", is_small=True)
        async with started(world.renewed_producer()) as producer:
            batch = BatchBuilder(10 * PRODUCE_BYTES_SMALL, 0)
            for _ in range(3):
                batch.append(timestamp=None, key=b"k", value=LARGE, headers=[])
            batch.close()
            refused = await producer.send_batch(batch, log.topic, partition=0)
            behind = await producer.send(log.topic, b"behind", b"k", 0)
            with pytest.raises(MessageSizeTooLargeError):
                await soon(refused)
            await soon(behind)
        assert await read(world, log) == [b"behind"]

    async def test_what_no_request_holds_is_refused_at_once_and_nothing_is_made_anew(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with started(world.renewed_producer()) as producer:
            with pytest.raises(MessageSizeTooLargeError):
                await producer.send(log.topic, b"x" * (REQUEST_BYTES_MAX + 1), b"k", 0)
            await soon(producer.send_and_wait(log.topic, b"next", b"k", 0))
            assert producer.renewals == 0
        assert await read(world, log) == [b"next"]

    async def test_what_nobody_waits_for_is_sent_all_the_same(self, world: LogWorld) -> None:
        log = await world.create("small", is_small=True)
        async with started(world.renewed_producer()) as producer:
            await producer.send(log.topic, LARGE, b"k", 0)
            for value in (b"first", b"second"):
                (await producer.send(log.topic, value, b"k", 0)).cancel()
            await turns(1)
        assert await read(world, log) == [b"first", b"second"]

    async def test_it_takes_no_more_once_it_is_stopped(self, world: LogWorld) -> None:
        log = await world.create("log")
        async with started(world.renewed_producer()) as producer:
            taken = await producer.send(log.topic, b"taken", b"k", 0)
        assert (await soon(taken)).offset == 0
        with pytest.raises(ProducerClosed):
            await producer.send(log.topic, b"late", b"k", 0)
        assert await read(world, log) == [b"taken"]
