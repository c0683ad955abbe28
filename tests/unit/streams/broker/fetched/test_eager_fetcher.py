"""A reader does not sleep while records are there: what it fetches, and what wakes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import OffsetAndMetadata

from millstream.streams.broker.fetched.eager_fetcher import EagerFetcher
from tests.contracts.log_world import soon, turns

A, B = TopicPartition("a", 0), TopicPartition("b", 0)
WAIT_MS = 60_000
NEVER_S = 3600.0
"""So long a test does not wait: whatever only time would wake fails it."""


def batch(first: int, count: int, *, is_marker: bool = False) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=is_marker,
        producer_id=1 if is_marker else -1,
        producer_epoch=0 if is_marker else -1,
        base_sequence=-1,
        batch_size=1_000_000,
    )
    for at in range(count):
        key = bytes((0, 0, 0, 1)) if is_marker else b"key"
        builder.append(at, 5000, key, b"x%d" % at, [])
    built = bytearray(builder.build())
    built[0:8] = first.to_bytes(8, "big")
    if is_marker:
        built[22] |= 0x20
        built[17:21] = calc_crc32c(memoryview(built)[21:]).to_bytes(4, "big")
    return bytes(built)


class Broker:
    """One node, which answers each fetch when a test says so; knows what stands on its logs."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._metadata_max_age_ms = WAIT_MS
        self.cluster = SimpleNamespace(leader_for_partition=lambda _: 1)
        self.logs: dict[TopicPartition, list[tuple[int, bytes]]] = {A: [], B: []}
        self.errors: dict[TopicPartition, int] = {}
        self.asked: asyncio.Queue[tuple[Any, asyncio.Future[None]]] = asyncio.Queue()

    async def send(self, _node: int, request: Any) -> Any:
        answered = self._loop.create_future()
        self.asked.put_nowait((request, answered))
        await answered
        topics = []
        for topic, partitions in request.topics:
            told = []
            for number, offset, _ in partitions:
                log = self.logs[TopicPartition(topic, number)]
                end = log[-1][0] if log else 0
                data = next((data for until, data in log if until > offset), b"")
                error = self.errors.get(TopicPartition(topic, number), 0)
                told.append((number, error, end, end, 0, [], data))
            topics.append((topic, told))
        return SimpleNamespace(API_VERSION=5, topics=topics)

    async def next_fetch(self) -> Fetch:
        return Fetch(*await soon(self.asked.get()))


class Fetch:
    def __init__(self, request: Any, answered: asyncio.Future[None]) -> None:
        self.wait_ms = request._max_wait_ms
        self.partitions = {topic for topic, _ in request.topics}
        self.bytes_max = {topic: asked[0][2] for topic, asked in request.topics}
        self._answered = answered

    def answer(self) -> None:
        self._answered.set_result(None)


@asynccontextmanager
async def reading(broker: Broker, *, is_placed: bool = True) -> AsyncIterator[EagerFetcher]:
    subscriptions = SubscriptionState()
    fetcher = EagerFetcher(
        broker,
        subscriptions,
        fetch_max_wait_ms=WAIT_MS,
        fetcher_timeout=NEVER_S,
        prefetch_backoff=NEVER_S,
        isolation_level="read_committed",
    )
    if is_placed:
        subscriptions.assign_from_user([A, B])
        assignment = subscriptions.subscription.assignment
        for one in (A, B):
            assignment.state_value(one).seek(0)
    try:
        yield fetcher
    finally:
        await fetcher.close()


def read(fetcher: EagerFetcher, *partitions: TopicPartition, at_most: int) -> asyncio.Task[Any]:
    return asyncio.create_task(fetcher.fetched_records(partitions, NEVER_S, at_most))


async def test_more_of_one_partition_is_fetched_while_records_of_another_are_unread() -> None:
    broker = Broker()
    broker.logs = {A: [(2, batch(0, 2))], B: [(2, batch(0, 2)), (4, batch(2, 2))]}
    async with reading(broker) as fetcher:
        first = await broker.next_fetch()
        assert (first.partitions, first.wait_ms) == ({"a", "b"}, WAIT_MS)
        first.answer()
        assert len((await soon(read(fetcher, B, at_most=9)))[B]) == 2
        beside = await broker.next_fetch()  # though nobody has read A
        assert beside.partitions == {"b"}
        assert beside.wait_ms < WAIT_MS
        beside.answer()
        assert [one.offset for one in (await soon(read(fetcher, B, at_most=9)))[B]] == [2, 3]


async def test_reader_that_waits_for_another_partition_than_the_unread_one_has_it_fetched() -> None:
    broker = Broker()
    broker.logs[A] = [(2, batch(0, 2))]
    async with reading(broker) as fetcher:
        (await broker.next_fetch()).answer()
        waiting = read(fetcher, B, at_most=9)
        beside = await broker.next_fetch()
        assert beside.partitions == {"b"}
        assert beside.wait_ms < WAIT_MS  # A may be read to its end meanwhile
        broker.logs[B] = [(1, batch(0, 1))]
        beside.answer()
        assert [one.offset for one in (await soon(waiting))[B]] == [0]


async def test_nothing_more_is_fetched_while_nobody_waits_and_no_more_is_known() -> None:
    broker = Broker()
    broker.logs[A] = [(2, batch(0, 2))]
    async with reading(broker) as fetcher:
        (await broker.next_fetch()).answer()
        assert len((await soon(read(fetcher, A, at_most=1)))[A]) == 1
        await turns(20)
        assert broker.asked.empty()
        assert len((await soon(read(fetcher, A, at_most=9)))[A]) == 1
        assert (await broker.next_fetch()).partitions == {"a", "b"}


async def test_fetch_of_nothing_but_a_marker_wakes_its_reader() -> None:
    broker = Broker()
    broker.logs[A] = [(1, batch(0, 1, is_marker=True))]
    async with reading(broker) as fetcher:
        waiting = read(fetcher, A, at_most=9)
        (await broker.next_fetch()).answer()
        assert await soon(waiting) == {}
        assert fetcher._subscriptions.subscription.assignment.state_value(A).position == 1


async def test_nothing_is_fetched_from_the_end_on_that_the_reader_has_told() -> None:
    broker = Broker()
    broker.logs = {A: [(2, batch(0, 2))], B: [(2, batch(0, 2))]}
    async with reading(broker) as fetcher:
        fetcher.ends = {A: 2, B: 2}
        (await broker.next_fetch()).answer()
        for one in (A, B):
            assert len((await soon(read(fetcher, one, at_most=9)))[one]) == 2
        await turns(20)
        assert broker.asked.empty()


async def test_unread_records_behind_the_end_or_of_a_paused_partition_hold_up_no_fetch() -> None:
    broker = Broker()
    broker.logs[A] = [(2, batch(0, 2))]
    async with reading(broker) as fetcher:
        (await broker.next_fetch()).answer()
        assert len((await soon(read(fetcher, A, at_most=1)))[A]) == 1
        fetcher._subscriptions.pause(A)
        fetcher._notify(fetcher._wait_consume_future)
        fetch = await broker.next_fetch()
        assert (fetch.partitions, fetch.wait_ms) == ({"b"}, WAIT_MS)


@pytest.mark.parametrize("wanted", [(), (A,)])
async def test_errors_of_a_partition_are_raised_once_and_it_is_fetched_again(wanted: Any) -> None:
    broker = Broker()
    broker.errors[A] = TopicAuthorizationFailedError.errno
    async with reading(broker) as fetcher:
        waiting = read(fetcher, *wanted, at_most=9)
        (await broker.next_fetch()).answer()
        with pytest.raises(TopicAuthorizationFailedError):
            await soon(waiting)
        assert (await broker.next_fetch()).partitions == {"a", "b"}


async def test_seek_while_a_position_is_looked_up_is_followed_at_once() -> None:
    # As it is with every single record that is looked up. aiokafka sleeps 200 ms here.
    broker = Broker()
    broker.logs[A] = [(5, batch(0, 5))]
    async with reading(broker, is_placed=False) as fetcher:
        subscriptions = fetcher._subscriptions
        subscriptions.assign_from_user([A])
        state = subscriptions.subscription.assignment.state_value(A)
        await turns(20)
        assert state._committed_futs  # the position is being looked up
        fetcher.seek_to(A, 3)
        state.update_committed(OffsetAndMetadata(-1, ""))
        fetch = await broker.next_fetch()
        fetch.answer()
        assert [one.offset for one in (await soon(read(fetcher, A, at_most=1)))[A]] == [3]


async def test_node_is_asked_by_one_fetch_at_a_time_whatever_is_sought() -> None:
    broker = Broker()
    async with reading(broker) as fetcher:
        first = await broker.next_fetch()
        for offset in (1, 2, 3):
            fetcher.seek_to(A, offset)
            await turns(20)
        assert broker.asked.empty()
        first.answer()
        await broker.next_fetch()
        assert broker.asked.empty()


async def test_partitions_that_are_assigned_anew_are_fetched_though_a_fetch_was_under_way() -> None:
    broker = Broker()
    broker.logs[B] = [(1, batch(0, 1))]
    async with reading(broker) as fetcher:
        await broker.next_fetch()  # which is never answered
        fetcher._subscriptions.assign_from_user([B])
        fetcher.seek_to(B, 0)
        fetch = await broker.next_fetch()
        assert fetch.partitions == {"b"}
        fetch.answer()
        assert [one.offset for one in (await soon(read(fetcher, B, at_most=9)))[B]] == [0]


async def test_no_megabyte_is_asked_for_where_few_records_are_left() -> None:
    broker = Broker()
    broker.logs[A] = [(3, batch(0, 3))]
    async with reading(broker) as fetcher:
        fetcher.ends = {A: 4}
        first = await broker.next_fetch()
        assert first.bytes_max["b"] == 1_048_576
        few = first.bytes_max["a"]
        assert 4_000 < few < 40_000
        fetcher.ends = {A: 1_000_000}
        first.answer()
        assert len((await soon(read(fetcher, A, at_most=9)))[A]) == 3
        assert (await broker.next_fetch()).bytes_max["a"] == 1_048_576


async def test_node_is_asked_seldom_while_records_lie_that_nobody_reads() -> None:
    broker = Broker()
    broker.logs[A] = [(2, batch(0, 2))]
    async with reading(broker) as fetcher:
        (await broker.next_fetch()).answer()
        waiting = read(fetcher, B, at_most=9)
        soon_after = await broker.next_fetch()
        assert soon_after.wait_ms < 1_000
        fetcher._records[A]._created -= 40.0
        soon_after.answer()
        later = await broker.next_fetch()
        assert later.wait_ms >= 10_000
        broker.logs[B] = [(1, batch(0, 1))]
        later.answer()
        assert len((await soon(waiting))[B]) == 1
