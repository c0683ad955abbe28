"""A lane that lives on through a broker's restart is dropped before it writes into what hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import NodeNotReadyError
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest

from millstream.schemas.errors import LaneFenced, LaneLost
from millstream.schemas.topics import RESULTS, SESSIONS, TopicSpec
from millstream.streams.broker.batches import Outgoing
from millstream.streams.broker.clients import transactional_producer
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.raw_broker import raw_log
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from millstream.streams.transactions.committer import CommitRefused, Committer
from millstream.streams.transactions.guarded_producer import GuardedProducer
from millstream.streams.transactions.hanging.marker_watch import GuardTimes
from millstream.streams.transactions.hanging.protocol import (
    DescribeProducersRequest,
    DescribeTransactionsRequest,
)
from millstream.streams.transactions.hanging.recovery import HangingTransactions
from millstream.streams.wire.codec import Encoded
from tests.harness.hanging import hang, unverified
from tests.support import eventually

T = TypeVar("T")
ASKING = (DescribeProducersRequest, DescribeTransactionsRequest)


@dataclass
class Owner:
    """A committer, its producers in the order in which they were made, and what was asked."""

    committer: Committer
    producers: list[AIOKafkaProducer] = field(default_factory=list)
    lost: list[LaneLost] = field(default_factory=list)
    asked: list[object] = field(default_factory=list)

    async def commit(self, where: TopicPartition, value: bytes) -> None:
        await soon(self.committer.submit([outgoing(where, value)]))

    def ask_after(self, times: GuardTimes) -> None:
        """Have the producers' guards ask by other times from now on."""
        for producer in self.committer._transactions._producers:
            producer.guard.times = times

    def cut_off(self) -> None:
        """Lose all connections, as when the brokers are killed."""
        for producer in self.producers:
            for connection in producer.client._conns.values():
                connection.close()


def outgoing(where: TopicPartition, value: bytes) -> Outgoing:
    return Outgoing(where.topic, where.partition, Encoded(b"key", value, []))


async def soon(waiting: Awaitable[T]) -> T:
    return await asyncio.wait_for(waiting, 30)


def transactional_id(settings: Settings, number: int) -> str:
    return f"{settings.namespace}-chain-0-{number}"


@asynccontextmanager
async def owning(settings: Settings, producers: int = 1) -> AsyncIterator[Owner]:
    made: list[AIOKafkaProducer] = []
    asked: list[object] = []
    lost: list[LaneLost] = []

    def make(number: int) -> AIOKafkaProducer:
        producer = transactional_producer(settings, transactional_id(settings, number))
        send = producer.client.send

        async def noted(node: int, request: object, **more: Any) -> Any:
            if isinstance(request, ASKING):
                asked.append(request)
            return await send(node, request, **more)

        producer.client.send = noted
        made.append(producer)
        return producer

    committer = Committer(
        lambda number: GuardedProducer(lambda: make(number)),
        producers=producers,
        records_max=100,
        timeout_s=20,
        gather_s=0.0,
        on_lost=lost.append,
    )
    await committer.start()
    try:
        yield Owner(committer, made, lost, asked)
    finally:
        await committer.stop()


def place(settings: Settings, spec: TopicSpec) -> TopicPartition:
    return TopicPartition(settings.topic(spec.name), 0)


@pytest.fixture
async def sessions(settings: Settings) -> TopicPartition:
    await ensure_topics(settings, [SESSIONS, RESULTS])
    for spec in (SESSIONS, RESULTS):  # a new topic's leader may not know at once that it is
        assert await readable(settings, place(settings, spec)) == []
    return place(settings, SESSIONS)


@pytest.fixture
def results(settings: Settings) -> TopicPartition:
    return place(settings, RESULTS)


@pytest.fixture
async def brokers(settings: Settings) -> AsyncIterator[None]:
    async with unverified(settings):
        yield


async def readable(settings: Settings, where: TopicPartition) -> list[bytes]:
    """Give what a reader of committed records finds before the end; it must be there at once."""
    reader = PartitionReader(settings)
    await reader.start()
    try:
        ends = await reader.high_watermarks([where])
        return [record.value async for record in reader.read(ends, stall_timeout_s=2)]
    finally:
        await reader.stop()


async def commit_and_hang(
    settings: Settings, owner: Owner, sessions: TopicPartition, results: TopicPartition
) -> None:
    """Commit to both partitions with producer 0, and find no marker on the first one."""
    await owner.commit(sessions, b"before")
    # Its marker is there, or it would end what hangs behind it, too.
    assert await readable(settings, sessions) == [b"before"]
    for _ in owner.producers[1:]:
        await owner.commit(results, b"another's")
    await hang(settings, owner.producers[0], sessions, b"committed")
    await owner.commit(results, b"committed")


async def next_owner_finds(
    settings: Settings, sessions: TopicPartition, results: TopicPartition
) -> list[bytes]:
    """Fence, end what hangs as a lane that opens does, and give what is then on `sessions`."""
    async with owning(settings, producers=2):
        ending = HangingTransactions(settings, [sessions, results])
        ending.fenced = frozenset(transactional_id(settings, number) for number in range(2))
        async with raw_log(settings, {sessions.topic, results.topic}) as raw:
            seen = await ending._look(raw, frozenset())
            await ending._look(raw, seen)
        return await readable(settings, sessions)


@pytest.mark.usefixtures("brokers")
async def test_a_producer_that_was_cut_off_does_not_go_on_with_what_hangs(
    settings: Settings, sessions: TopicPartition, results: TopicPartition
) -> None:
    async with owning(settings) as owner:
        await commit_and_hang(settings, owner, sessions, results)
        owner.cut_off()
        with pytest.raises(LaneLost, match="without a marker") as lost:
            await owner.commit(sessions, b"next")
        assert not isinstance(lost.value, LaneFenced)
        assert owner.lost == [lost.value]
    assert await next_owner_finds(settings, sessions, results) == [b"before", b"committed"]


@pytest.mark.usefixtures("brokers")
async def test_a_transaction_that_only_began_does_not_end_what_hangs_when_its_owner_is_killed(
    settings: Settings, sessions: TopicPartition, results: TopicPartition
) -> None:
    async with owning(settings, producers=2) as owner:
        await commit_and_hang(settings, owner, sessions, results)
        await owner.commit(sessions, b"another's")
        owner.cut_off()
        # None of its records is written yet; the partition that they are for is added to it.
        owner.committer.submit([outgoing(sessions, b"next")], lazy=True)
        manager = owner.producers[0]._txn_manager
        await eventually(lambda: manager.is_fatal_error() or manager.txn_partitions)
        found = await next_owner_finds(settings, sessions, results)
    assert found == [b"before", b"committed", b"another's"]


@pytest.mark.usefixtures("brokers")
async def test_an_owner_with_nothing_to_commit_is_dropped_soon_after_it_was_cut_off(
    settings: Settings, sessions: TopicPartition, results: TopicPartition
) -> None:
    async with owning(settings, producers=2) as owner:
        await commit_and_hang(settings, owner, sessions, results)
        owner.cut_off()
        await eventually(lambda: owner.lost)
        assert "without a marker" in str(owner.lost[0])
        with pytest.raises(LaneLost, match="without a marker"):
            await owner.commit(results, b"next")
    assert await next_owner_finds(settings, sessions, results) == [b"before", b"committed"]


@pytest.mark.usefixtures("brokers")
async def test_what_hangs_is_found_though_no_connection_was_lost(
    settings: Settings,
    sessions: TopicPartition,
    results: TopicPartition,
) -> None:
    async with owning(settings) as owner:
        await commit_and_hang(settings, owner, sessions, results)
        owner.ask_after(GuardTimes(quiet_s=0.0))
        await eventually(lambda: owner.lost)
    assert await next_owner_finds(settings, sessions, results) == [b"before", b"committed"]


@pytest.mark.usefixtures("brokers")
async def test_connections_vouch_for_a_transaction_only_while_it_is_young(
    settings: Settings,
    sessions: TopicPartition,
    results: TopicPartition,
) -> None:
    async with owning(settings) as owner:
        await commit_and_hang(settings, owner, sessions, results)
        owner.ask_after(GuardTimes(young_s=0.0))
        with pytest.raises(LaneLost, match="without a marker"):
            await owner.commit(sessions, b"next")
    assert await next_owner_finds(settings, sessions, results) == [b"before", b"committed"]


async def test_nobody_is_asked_as_long_as_no_connection_is_lost(
    settings: Settings, sessions: TopicPartition, results: TopicPartition
) -> None:
    async with owning(settings, producers=2) as owner:
        for number in range(20):
            await owner.commit((sessions, results)[number % 2], b"%d" % number)
        assert owner.asked == []
        owner.cut_off()
        for number in range(20):
            await owner.commit((sessions, results)[number % 2], b"%d" % number)
        # Each producer once, and what it was told holds. A coordinator that still writes markers is
        # asked again, and the leaders only after that.
        assert sum(isinstance(one, DescribeProducersRequest) for one in owner.asked) == 2
        assert owner.lost == []


async def test_a_transaction_that_nothing_follows_is_asked_about_once(
    settings: Settings, sessions: TopicPartition
) -> None:
    async with owning(settings) as owner:
        owner.ask_after(GuardTimes(quiet_s=0.0))
        await owner.commit(sessions, b"x")
        # While the coordinator has markers to write, it is asked again: once all are there counts.
        (producer,) = owner.committer._transactions._producers
        await eventually(lambda: producer.guard._marked)
        asked = [type(request) for request in owner.asked]
        assert asked.count(DescribeProducersRequest) == 1
        for _ in range(3):
            await owner.committer._transactions.look()
        owner.cut_off()
        await owner.commit(sessions, b"y")
        assert [type(request) for request in owner.asked] == asked
        assert owner.lost == []


@pytest.mark.usefixtures("brokers")
async def test_after_an_abort_its_markers_are_asked_about_before_anything_else(
    settings: Settings, sessions: TopicPartition
) -> None:
    async with owning(settings) as owner:
        await owner.commit(sessions, b"before")
        with pytest.raises(CommitRefused):
            await owner.committer._transactions.commit(
                [Outgoing(sessions.topic, 0, Encoded(b"key", b"x" * 1_100_000, []))]
            )
        assert len(owner.producers) == 2
        await hang(settings, owner.producers[1], sessions, b"aborted")
        with pytest.raises(LaneLost, match="without a marker"):
            await owner.commit(sessions, b"next")


async def test_a_transaction_whose_beginning_got_no_answer_goes_on(
    settings: Settings, sessions: TopicPartition
) -> None:
    async with owning(settings) as owner:
        await owner.commit(sessions, b"x")
        client = owner.producers[0].client
        send = client.send

        async def lose_one_answer(node: int, request: object, **more: Any) -> Any:
            answer = await send(node, request, **more)
            if isinstance(request, AddPartitionsToTxnRequest):
                client.send = send
                owner.cut_off()
                raise NodeNotReadyError
            return answer

        client.send = lose_one_answer
        await owner.commit(sessions, b"y")
        assert owner.asked
    assert await readable(settings, sessions) == [b"x", b"y"]
