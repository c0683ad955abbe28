"""What the broker in memory does when it is told to: what real ones do seldom, or in their time."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, ProducerFenced

from millstream.schemas.errors import LaneLost, Misconfigured
from tests.contracts.log_world import all_committed, end_of, sent, soon, started, written
from tests.harness.log_worlds import MemoryWorld


@pytest.fixture
def world() -> MemoryWorld:
    return MemoryWorld()


async def values(world: MemoryWorld, where: TopicPartition) -> list[bytes | None]:
    return [record.value for record in await all_committed(world, where)]


async def test_a_transaction_without_its_marker_holds_back_readers_until_it_ends_as_it_was_decided(
    world: MemoryWorld,
) -> None:
    log, marked = await world.create("log"), await world.create("marked")
    world.broker.withhold_marker(log)
    async with started(world.producer("p")) as producer:
        await producer.begin_transaction()
        for where in (log, marked):
            await soon(await sent(producer, where, b"committed"))
        await producer.commit_transaction()
    # Its successor fences it, and the coordinator takes it for ended: so it hangs.
    async with started(world.producer("p")):
        await written(world, log, b"behind")
        assert await values(world, marked) == [b"committed"]
        with pytest.raises(LaneLost, match="open transaction"):
            await all_committed(world, log, stall_s=0.05)
    world.broker.write_withheld()
    assert await values(world, log) == [b"committed", b"behind"]


async def test_the_next_marker_of_a_producer_ends_what_it_left_hanging_alike(
    world: MemoryWorld,
) -> None:
    log = await world.create("log")
    async with started(world.producer("p")) as producer:
        world.broker.withhold_marker(log)
        for is_commit in (True, False):
            await producer.begin_transaction()
            await soon(await sent(producer, log, b"x"))
            await (producer.commit_transaction() if is_commit else producer.abort_transaction())
    assert await values(world, log) == []  # as on Kafka: the committed one is gone


@pytest.mark.parametrize("is_applied", [True, False])
async def test_a_commit_without_an_answer_was_done_or_not(
    world: MemoryWorld, *, is_applied: bool
) -> None:
    log = await world.create("log")
    world.broker.lose_answer(is_applied=is_applied)
    async with started(world.producer("p")) as producer:
        await producer.begin_transaction()
        await soon(await sent(producer, log, b"once"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(producer.commit_transaction(), world.short_s)
    async with started(world.producer("p")):
        assert await values(world, log) == ([b"once"] if is_applied else [])


async def test_while_the_broker_is_away_clients_wait_and_none_can_start(world: MemoryWorld) -> None:
    log = await world.create("log")
    async with started(world.plain_producer()) as producer, started(world.reader()) as reader:
        world.broker.go_away()
        sending = asyncio.create_task(producer.send_and_wait(log.topic, b"late", b"k", 0))
        asking = asyncio.create_task(end_of(reader, log))
        with pytest.raises(KafkaConnectionError):
            await world.plain_producer().start()
        await asyncio.wait({sending, asking}, timeout=world.short_s)
        assert not sending.done()
        assert not asking.done()
        world.broker.come_back()
        assert (await soon(sending)).offset == 0
        await soon(asking)
    assert await values(world, log) == [b"late"]


async def test_a_transaction_that_times_out_is_aborted_and_its_producer_fenced(
    world: MemoryWorld,
) -> None:
    log = await world.create("log")
    async with started(world.producer("p")) as producer:
        await producer.begin_transaction()
        await soon(await sent(producer, log, b"slow"))
        world.broker.expire("p")
        with pytest.raises(ProducerFenced):
            await producer.commit_transaction()
    assert await values(world, log) == []


async def test_compaction_keeps_each_keys_newest_committed_record_where_it_stands(
    world: MemoryWorld,
) -> None:
    log = await world.create("log")
    async with started(world.plain_producer()) as producer:
        for key, value in ((b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"4"), (b"c", None)):
            await producer.send_and_wait(log.topic, value, key, 0)
    async with started(world.producer("p")) as producer:
        await producer.begin_transaction()
        await soon(await sent(producer, log, b"aborted"))
        await producer.abort_transaction()
        world.broker.compact(log.topic)
        kept = await all_committed(world, log)
        assert [(one.offset, one.key, one.value) for one in kept] == [
            (1, b"b", b"2"),
            (2, b"a", b"3"),
            (4, b"c", None),
        ]
        # What is not stable yet is never compacted, and what comes gets the next offset.
        await producer.begin_transaction()
        await soon(await sent(producer, log, b"open"))
        world.broker.compact(log.topic, tombstones=True)
        await producer.commit_transaction()
    kept = await all_committed(world, log)
    assert [(one.offset, one.value) for one in kept] == [(1, b"2"), (2, b"3"), (7, b"open")]


async def test_acknowledgements_may_be_held_back(world: MemoryWorld) -> None:
    log = await world.create("log")
    async with started(world.plain_producer()) as producer:
        with world.broker.unacknowledged(log.topic):
            sending = await producer.send(log.topic, b"v", b"k", 0)
            assert await values(world, log) in ([], [b"v"])
            await asyncio.wait({sending}, timeout=world.short_s)
            assert not sending.done()
            assert await values(world, log) == [b"v"]
        assert (await soon(sending)).offset == 0


async def test_a_topic_that_does_not_exist_has_no_partitions(world: MemoryWorld) -> None:
    with pytest.raises(Misconfigured, match="nope"):
        world.broker.partition_count("nope")
