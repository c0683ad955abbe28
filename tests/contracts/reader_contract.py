"""What reading stretches of a partition does, on whatever broker: committed records, to an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition

from millstream.schemas.errors import LaneLost, ServiceUnavailable
from millstream.streams.broker.partition_reader import Consumer, PartitionReader
from millstream.streams.transactions.producers import TransactionalProducer
from tests.contracts.log_world import (
    LogWorld,
    all_committed,
    end_of,
    sent,
    soon,
    started,
    turns,
    written,
)


async def values(
    reader: PartitionReader, ends: dict[TopicPartition, int], **more: Any
) -> list[bytes]:
    more.setdefault("stall_timeout_s", 30)
    return [record.value async for record in reader.read(ends, **more)]


@asynccontextmanager
async def open_transaction(
    world: LogWorld, log: TopicPartition
) -> AsyncIterator[tuple[TransactionalProducer, PartitionReader, Any]]:
    """Give a producer whose transaction holds `open`, a reader, and the place of that record."""
    async with started(world.producer("open")) as producer, started(world.reader()) as reader:
        await producer.begin_transaction()
        place = await soon(await sent(producer, log, b"open"))
        yield producer, reader, place


class ReaderContract:
    """Cases of a reader; a subclass gives the `world` fixture."""

    @pytest.mark.rule(4)
    async def test_a_transaction_open_before_the_end_is_waited_for_and_read_behind(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with open_transaction(world, log) as (producer, reader, _):
            await written(world, log, b"behind")
            end = await end_of(reader, log)
            assert end == 2
            with pytest.raises(LaneLost, match="open transaction"):
                await values(reader, {log: end}, stall_timeout_s=world.short_s)
            waiting = asyncio.create_task(values(reader, {log: end}))
            await asyncio.wait({waiting}, timeout=world.short_s)
            assert not waiting.done()
            await producer.commit_transaction()
            assert await soon(waiting) == [b"open", b"behind"]

    async def test_what_is_committed_before_an_open_transaction_is_read_at_once(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        await written(world, log, b"before")
        async with open_transaction(world, log) as (_, reader, _):
            assert await values(reader, {log: 1}) == [b"before"]

    async def test_an_end_that_is_aborted_records_and_markers_is_reached(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        await written(world, log, b"before")
        async with started(world.producer("aborted")) as producer:
            for _ in range(3):
                await producer.begin_transaction()
                await soon(await sent(producer, log, b"aborted"))
                await producer.abort_transaction()
        async with started(world.reader()) as reader:
            end = await end_of(reader, log)
            assert end == 7
            assert await values(reader, {log: end}, stall_timeout_s=5) == [b"before"]

    async def test_aborted_records_between_committed_ones_are_passed_over(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with (
            started(world.producer("one")) as one,
            started(world.producer("other")) as other,
        ):
            await one.begin_transaction()
            await other.begin_transaction()
            for number in range(3):
                await soon(await sent(one, log, b"one %d" % number))
                await soon(await sent(other, log, b"other %d" % number))
            await other.abort_transaction()
            await one.commit_transaction()
        records = await all_committed(world, log)
        assert [record.value for record in records] == [b"one 0", b"one 1", b"one 2"]
        assert [record.offset for record in records] == [0, 2, 4]

    async def test_an_empty_partition_is_read_at_once(self, world: LogWorld) -> None:
        log = await world.create("log")
        async with started(world.reader()) as reader:
            assert await reader.high_watermarks([log]) == {log: 0}
            assert await values(reader, {log: 0}, stall_timeout_s=0) == []

    async def test_a_stretch_ends_where_its_end_was_and_starts_at_a_time(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        await written(world, log, b"0", b"1")
        async with started(world.reader()) as reader:
            end = await end_of(reader, log)
            (newest_ms,) = await written(world, log, b"2")
            assert await values(reader, {log: end}) == [b"0", b"1"]
            assert await values(reader, {log: 3}, since_ms=newest_ms + 60_000) == []
            assert (await values(reader, {log: 3}, since_ms=newest_ms))[-1] == b"2"
            read = await values(reader, {log: 3}, since_ms=newest_ms - 3_600_000)
            assert read == [b"0", b"1", b"2"]

    async def test_a_time_within_an_open_transaction_misses_nothing_of_it(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with open_transaction(world, log) as (producer, reader, place):
            await written(world, log, b"behind")
            since = {"since_ms": place.timestamp - 1000}
            waiting = asyncio.create_task(values(reader, {log: 2}, **since))
            await asyncio.wait({waiting}, timeout=world.short_s)
            await producer.commit_transaction()
            assert await soon(waiting) == [b"open", b"behind"]

    async def test_a_stretch_starts_at_an_offset_or_at_the_oldest_record_that_is_left(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        await written(world, log, b"0", b"1", b"2", b"3")
        async with started(world.reader()) as reader:
            assert await values(reader, {log: 4}, from_offset=2) == [b"2", b"3"]
            assert await values(reader, {log: 4}, from_offset=-7) == [b"0", b"1", b"2", b"3"]
            assert await values(reader, {log: 4}, from_offset=9) == []
            assert await reader.log_start_offsets([log]) == {log: 0}
            await world.delete_before(log, 3)
            assert await reader.log_start_offsets([log]) == {log: 3}
            assert await values(reader, {log: 4}, from_offset=1) == [b"3"]
            assert await values(reader, {log: 4}) == [b"3"]
            assert await end_of(reader, log) == 4
            await world.delete_before(log, 4)
            assert await values(reader, {log: 4}, from_offset=1) == []
            await written(world, log, b"4")
            assert await values(reader, {log: 5}) == [b"4"]

    async def test_the_same_stretch_is_read_again_and_again(self, world: LogWorld) -> None:
        log = await world.create("log")
        await written(world, log, b"0", b"1")
        async with started(world.reader()) as reader:
            for _ in range(3):
                assert await values(reader, {log: 2}) == [b"0", b"1"]
                assert await values(reader, {log: 2}, from_offset=1) == [b"1"]

    async def test_several_partitions_are_read_in_one_stretch(self, world: LogWorld) -> None:
        log = await world.create("log", partitions=2)
        other = TopicPartition(log.topic, 1)
        await written(world, log, b"0")
        await written(world, other, b"1", b"2")
        async with started(world.reader()) as reader:
            ends = await reader.high_watermarks([log, other])
            assert ends == {log: 1, other: 2}
            assert sorted(await values(reader, ends)) == [b"0", b"1", b"2"]

    async def test_a_stable_end_is_given_once_nothing_is_open_before_it(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with started(world.producer("open")) as producer, started(world.reader()) as reader:
            assert await reader.stable_high_watermarks([log]) == {log: 0}
            await producer.begin_transaction()
            await soon(await sent(producer, log, b"open"))
            waiting = asyncio.create_task(reader.stable_high_watermarks([log]))
            await asyncio.wait({waiting}, timeout=world.short_s)
            assert not waiting.done()
            await producer.abort_transaction()
            assert await soon(waiting) == {log: 1}

    async def test_a_compacted_topic_is_read_to_its_end(self, world: LogWorld) -> None:
        log = await world.create("log", is_compacted=True)
        await written(world, log, *(b"%d" % number for number in range(50)))
        async with started(world.reader()) as reader:
            assert (await values(reader, {log: await end_of(reader, log)}))[-1] == b"49"

    async def test_a_record_is_read_as_it_was_written(self, world: LogWorld) -> None:
        log = await world.create("log")
        async with started(world.plain_producer()) as producer:
            headers = [("a", b"1"), ("a", b""), ("b", None)]
            for key, value in ((b"k", None), (None, b""), (b"", b"v")):
                await producer.send_and_wait(log.topic, value, key, 0, 1234, headers)
        records = await all_committed(world, log)
        told = [(record.key, record.value, record.offset) for record in records]
        assert told == [(b"k", None, 0), (None, b"", 1), (b"", b"v", 2)]
        assert all(tuple(record.headers) == tuple(headers) for record in records)
        assert {(record.topic, record.partition) for record in records} == {(log.topic, 0)}
        # The broker's time, whatever the producer said.
        assert all(record.timestamp > 1_700_000_000_000 for record in records)

    async def test_a_consumer_gives_what_comes_while_it_waits_and_no_more_than_it_is_asked_for(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        async with started(world.read_clients().consumer()) as consumer:
            consumer.assign([log])
            waiting = asyncio.create_task(_values_of(consumer, timeout_ms=20_000))
            await turns(5)
            await written(world, log, b"0")
            assert await soon(waiting) == [b"0"]
            await written(world, log, b"1", b"2", b"3")
            found: list[bytes] = []
            while len(found) < 3:
                some = await _values_of(consumer, timeout_ms=5000, max_records=2)
                assert len(some) <= 2
                found += some
                assert await consumer.position(log) == 1 + len(found)
            assert found == [b"1", b"2", b"3"]
            assert await _values_of(consumer, timeout_ms=0) == []

    async def test_a_partition_that_is_paused_loses_nothing_wherever_it_was_sought(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log", partitions=2)
        other = TopicPartition(log.topic, 1)
        await written(world, log, b"0", b"1")
        await written(world, other, b"other")
        async with started(world.read_clients().consumer()) as consumer:
            consumer.assign([log, other])
            consumer.seek(log, 1)
            consumer.pause(log)
            found = await _values_of(consumer, timeout_ms=5000)
            assert found == [b"other"]
            assert await _values_of(consumer, timeout_ms=100) == []
            consumer.resume(log)
            assert await _values_of(consumer, timeout_ms=5000) == [b"1"]
            consumer.pause(log)
            consumer.seek(log, 0)
            consumer.resume(log)
            assert await _values_of(consumer, timeout_ms=5000) == [b"0", b"1"]

    async def test_a_position_that_retention_has_passed_is_reset_to_the_oldest_record(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        await written(world, log, b"0", b"1", b"2")
        await world.delete_before(log, 2)
        async with started(world.read_clients().consumer()) as consumer:
            consumer.assign([log])
            consumer.seek(log, 0)
            assert await _values_of(consumer, timeout_ms=20_000) == [b"2"]
            assert await consumer.beginning_offsets([log]) == {log: 2}
            for _ in range(2):  # to ask changes nothing
                assert await consumer.end_offsets([log]) == {log: 3}

    async def test_the_first_record_at_a_time_is_found_not_the_last_before_it(
        self, world: LogWorld
    ) -> None:
        log = await world.create("log")
        times = []
        while len(set(times)) < 3:
            times += await written(world, log, b"x")
        async with started(world.read_clients().consumer()) as consumer:
            for at_ms in set(times):
                found = (await consumer.offsets_for_times({log: at_ms}))[log]
                assert (found.offset, found.timestamp) == (times.index(at_ms), at_ms)
            later = await consumer.offsets_for_times({log: times[-1] + 1})
            assert later == {log: None}

    async def test_a_broker_that_does_not_answer_is_told_as_such(self, world: LogWorld) -> None:
        clients = world.read_clients_of_nobody()
        reader = world.reader(clients)
        try:
            with pytest.raises(ServiceUnavailable, match=clients.address):
                await reader.start()
        finally:
            await reader.stop()


async def _values_of(consumer: Consumer, **more: int) -> list[bytes]:
    found = await consumer.getmany(**more)
    return [record.value for records in found.values() for record in records]
