"""Group commits on real Kafka: together or not at all, in the order they came, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from millstream.schemas.errors import LaneFenced, LaneLost
from millstream.schemas.topics import RECORD_BYTES_MAX
from millstream.streams.broker.batches import Outgoing
from millstream.streams.broker.clients import (
    admin_client,
    committed_consumer,
    transactional_producer,
)
from millstream.streams.settings import Settings
from millstream.streams.transactions.committer import CommitRefused, Committer
from millstream.streams.wire.codec import Encoded

T = TypeVar("T")

SMALL_RECORDS_MAX = 10_000


async def create(settings: Settings, name: str, **configs: str) -> str:
    """Create a topic of one partition; gives its physical name."""
    topic = settings.topic(name)
    admin = admin_client(settings)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=configs)])
    finally:
        await admin.close()
    return topic


@asynccontextmanager
async def committing(
    settings: Settings,
    *,
    producers: int = 2,
    transactional_id: str = "lane",
    gather_s: float = 0.0,
    records_max: int = 100,
    timeout_s: float = 20,
    tap: Callable[[AIOKafkaProducer], None] = lambda _producer: None,
) -> AsyncIterator[tuple[Committer, list[LaneLost]]]:
    """Run a committer; `tap` may put something into the way of its producers."""
    lost: list[LaneLost] = []

    def make(number: int) -> AIOKafkaProducer:
        name = f"{settings.namespace}-{transactional_id}-{number}"
        producer = transactional_producer(settings, name)
        tap(producer)
        return producer

    committer = Committer(
        make,
        producers=producers,
        records_max=records_max,
        timeout_s=timeout_s,
        gather_s=gather_s,
        on_lost=lost.append,
    )
    await committer.start()
    try:
        yield committer, lost
    finally:
        await committer.stop()


def outgoing(topic: str, value: bytes, partition: int = 0) -> Outgoing:
    return Outgoing(topic, partition, Encoded(b"key", value, [("h", b"v")]))


async def soon(waiting: Awaitable[T]) -> T:
    return await asyncio.wait_for(waiting, 30)


async def turns(count: int) -> None:
    """Let whatever is ready run, this many times."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turned = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned


async def committed(settings: Settings, topic: str, *, count: int) -> list[Any]:
    """Read the first `count` committed records of a topic."""
    consumer = committed_consumer(settings)
    await consumer.start()
    try:
        consumer.subscribe([topic])
        return [await soon(consumer.getone()) for _ in range(count)]
    finally:
        await consumer.stop()


async def test_what_comes_while_a_commit_is_under_way_leaves_in_one_transaction(
    settings: Settings,
) -> None:
    topic = await create(settings, "out")
    async with committing(settings) as (committer, lost):
        members = [
            committer.submit([outgoing(topic, b"%d-%d" % (number, part)) for part in range(2)])
            for number in range(20)
        ]
        offsets = await soon(asyncio.gather(*members))
        assert committer.transactions == 1
        assert committer.records == 40
    records = await committed(settings, topic, count=40)
    by_offset = {record.offset: record.value for record in records}
    for number, pair in enumerate(offsets):
        assert [by_offset[one] for one in pair] == [b"%d-0" % number, b"%d-1" % number]
    assert [record.value for record in records] == [
        b"%d-%d" % (number, part) for number in range(20) for part in range(2)
    ]
    assert records[0].headers == (("h", b"v"),)
    assert lost == []


async def test_records_of_several_batches_keep_their_order_and_are_told_their_offsets(
    settings: Settings,
) -> None:
    large, small = await create(settings, "large"), await create(settings, "small")
    async with committing(settings) as (committer, _):
        records = [
            outgoing(topic, b"%d" % number * size)
            for number in range(8)
            for topic, size in ((large, 100_000), (small, 1))
        ]
        offsets = await soon(committer.submit(records))
        assert committer.transactions == 1
    for topic, start, size in ((large, 0, 100_000), (small, 1, 1)):
        written = {one.offset: one.value for one in await committed(settings, topic, count=8)}
        told = [written[offset] for offset in offsets[start::2]]
        assert told == [b"%d" % number * size for number in range(8)]


async def test_transactions_go_round_the_producers_and_keep_their_order(
    settings: Settings,
) -> None:
    topic = await create(settings, "out")
    async with committing(settings, producers=3) as (committer, _):
        for number in range(7):
            await soon(committer.submit([outgoing(topic, b"%d" % number)]))
        assert committer.transactions == 7
    values = [record.value for record in await committed(settings, topic, count=7)]
    assert values == [b"%d" % number for number in range(7)]


async def test_under_load_a_commit_waits_for_others_to_go_with_it(settings: Settings) -> None:
    topic = await create(settings, "out")
    async with committing(settings, gather_s=0.5) as (committer, _):
        loaded = [committer.submit([outgoing(topic, b"%d" % number)]) for number in range(2)]
        await soon(asyncio.gather(*loaded))
        first = committer.submit([outgoing(topic, b"2")])
        await turns(5)  # its commit would be under way by now
        second = committer.submit([outgoing(topic, b"3")])
        await soon(asyncio.gather(first, second))
        assert committer.transactions == 2


async def test_an_idle_lane_commits_without_waiting_for_company(settings: Settings) -> None:
    topic = await create(settings, "out")
    async with committing(settings, gather_s=3600) as (committer, _):
        for number in range(3):
            lazy = committer.submit([outgoing(topic, b"lazy")], lazy=True)
            await soon(committer.submit([outgoing(topic, b"%d" % number)]))
            await soon(lazy)
        assert committer.transactions == 3


async def test_a_transaction_that_was_begun_and_never_committed_holds_nobody_up(
    settings: Settings,
) -> None:
    topic = await create(settings, "out")
    async with committing(settings) as (committer, _):
        await soon(committer.submit([outgoing(topic, b"before")]))
        dropped = committer.submit([outgoing(topic, b"dropped")], lazy=True)
        await turns(5)  # its transaction has begun by now
    with pytest.raises(LaneLost):
        await dropped
    async with committing(settings) as (committer, lost):
        for number in range(2):
            await soon(committer.submit([outgoing(topic, b"%d" % number)]))
        assert lost == []
    values = [record.value for record in await committed(settings, topic, count=3)]
    assert values == [b"before", b"0", b"1"]


async def test_a_transaction_begins_where_those_with_its_first_records_went_before(
    settings: Settings,
) -> None:
    asked, answered, other = [
        await create(settings, name) for name in ("asked", "answered", "other")
    ]
    producers: list[AIOKafkaProducer] = []
    async with committing(settings, tap=producers.append) as (committer, _):
        for topics in ((asked, answered), (other,)):
            await soon(committer.submit([outgoing(topic, b"before") for topic in topics]))
        lazy = committer.submit([outgoing(asked, b"now")], lazy=True)
        await turns(5)  # its transaction has begun by now
        added = {
            place.topic
            for producer in producers
            for place in producer._txn_manager.partitions_to_add()
            | producer._txn_manager.txn_partitions
        }
        assert added == {asked, answered}
        await soon(lazy)


async def test_lazy_records_go_with_the_next_ones_or_by_themselves(settings: Settings) -> None:
    topic = await create(settings, "out")
    async with committing(settings) as (committer, _):
        lazy = committer.submit([outgoing(topic, b"lazy")], lazy=True)
        await soon(committer.submit([outgoing(topic, b"prompt")]))
        assert lazy.done()
        assert committer.transactions == 1
        await soon(committer.submit([outgoing(topic, b"alone")], lazy=True))
        assert committer.transactions == 2


async def test_what_has_no_records_is_done_when_all_before_it_is_and_makes_no_transaction(
    settings: Settings,
) -> None:
    topic = await create(settings, "out")
    done: list[str] = []
    async with committing(settings) as (committer, _):
        assert await soon(committer.submit(())) == ()
        assert committer.transactions == 0
        members = {
            "before": committer.submit([outgoing(topic, b"before")]),
            "mark": committer.submit(()),
            "after": committer.submit([outgoing(topic, b"after")]),
        }
        for name, member in members.items():
            member.add_done_callback(lambda _, name=name: done.append(name))  # type: ignore[misc]
        await soon(asyncio.gather(*members.values()))
        assert committer.transactions == 1
    assert done == ["before", "mark", "after"]


async def test_a_record_that_no_broker_takes_fails_only_its_own_member(settings: Settings) -> None:
    topic = await create(settings, "out")
    async with committing(settings) as (committer, lost):
        before = committer.submit([outgoing(topic, b"before")])
        oversized = committer.submit(
            [outgoing(topic, b"beside"), outgoing(topic, b"x" * RECORD_BYTES_MAX)]
        )
        after = committer.submit([outgoing(topic, b"after")])
        with pytest.raises(CommitRefused, match="bytes"):
            await soon(oversized)
        await soon(asyncio.gather(before, after))
    values = [record.value for record in await committed(settings, topic, count=2)]
    assert values == [b"before", b"after"]
    assert lost == []


async def test_a_record_that_this_topic_refuses_fails_only_its_own_member(
    settings: Settings,
) -> None:
    topic = await create(settings, "out", **{"max.message.bytes": str(SMALL_RECORDS_MAX)})
    takes_all = await create(settings, "takes-all")
    async with committing(settings) as (committer, lost):
        before = committer.submit([outgoing(topic, b"before")])
        refused = committer.submit(
            [outgoing(takes_all, b"beside"), outgoing(topic, b"x" * 2 * SMALL_RECORDS_MAX)]
        )
        after = committer.submit([outgoing(topic, b"after")])
        with pytest.raises(CommitRefused, match="refused"):
            await soon(refused)
        await soon(asyncio.gather(before, after))
        for number in range(4):  # each producer still works
            await soon(committer.submit([outgoing(topic, b"later %d" % number)]))
        await soon(committer.submit([outgoing(takes_all, b"alone")]))
    (alone,) = await committed(settings, takes_all, count=1)
    assert alone.value == b"alone"  # what the broker took beside the refused record was aborted
    values = [record.value for record in await committed(settings, topic, count=6)]
    assert values == [b"before", b"after", *(b"later %d" % number for number in range(4))]
    assert lost == []


async def test_a_second_owner_fences_the_first_which_is_told_once(settings: Settings) -> None:
    topic = await create(settings, "out")
    async with AsyncExitStack() as stack:
        first, first_lost = await stack.enter_async_context(committing(settings))
        await soon(first.submit([outgoing(topic, b"first")]))
        second, second_lost = await stack.enter_async_context(committing(settings))
        late = [first.submit([outgoing(topic, b"late %d" % number)]) for number in range(3)]
        outcomes = await soon(asyncio.gather(*late, return_exceptions=True))
        assert [type(outcome) for outcome in outcomes] == [LaneFenced] * 3
        with pytest.raises(LaneFenced):
            await soon(first.submit([outgoing(topic, b"later still")]))
        assert [type(one) for one in first_lost] == [LaneFenced]
        await soon(second.submit([outgoing(topic, b"second")]))
        assert second_lost == []
    values = [record.value for record in await committed(settings, topic, count=2)]
    assert values == [b"first", b"second"]


async def test_who_waits_when_a_committer_stops_is_told(settings: Settings) -> None:
    topic = await create(settings, "out")
    async with committing(settings) as (committer, lost):
        waiting = [committer.submit([outgoing(topic, b"x")]) for _ in range(3)]
        await committer.stop()
        outcomes = await soon(asyncio.gather(*waiting, return_exceptions=True))
        assert [type(outcome) for outcome in outcomes] == [LaneLost] * 3
        with pytest.raises(LaneLost):
            await soon(committer.submit([outgoing(topic, b"after")]))
        assert lost == []


async def test_an_error_that_nobody_foresaw_loses_the_lane_instead_of_hanging_it(
    settings: Settings,
) -> None:
    topic = await create(settings, "out")
    async with committing(settings) as (committer, lost):
        # aiokafka asserts that a partition exists.
        nowhere = committer.submit([outgoing(topic, b"x", partition=9)])
        await asyncio.wait({nowhere}, timeout=5)
        assert nowhere.done()
        assert isinstance(nowhere.exception(), LaneLost)
        assert len(lost) == 1


async def test_a_commit_whose_outcome_is_unknown_loses_the_lane_and_is_not_repeated(
    settings: Settings,
) -> None:
    topic = await create(settings, "out")

    def lose_answers(producer: AIOKafkaProducer) -> None:
        commit = producer.commit_transaction

        async def commit_and_hear_nothing() -> None:
            await commit()
            await asyncio.get_running_loop().create_future()

        producer.commit_transaction = commit_and_hear_nothing

    async with committing(settings, timeout_s=2, tap=lose_answers) as (committer, lost):
        unknown = committer.submit([outgoing(topic, b"once")])
        with pytest.raises(LaneLost, match="unknown"):
            await asyncio.wait_for(unknown, 10)
        with pytest.raises(LaneLost):
            await soon(committer.submit([outgoing(topic, b"after")]))
        assert len(lost) == 1
    async with committing(settings) as (committer, _):
        await soon(committer.submit([outgoing(topic, b"the next owner's")]))
    values = [record.value for record in await committed(settings, topic, count=2)]
    assert values == [b"once", b"the next owner's"]


async def test_one_transaction_is_open_at_a_time(settings: Settings) -> None:
    topic = await create(settings, "out")
    steps: list[str] = []

    def note(producer: AIOKafkaProducer) -> None:
        begin, commit = producer.begin_transaction, producer.commit_transaction

        async def noted_begin() -> None:
            steps.append("begin")
            await begin()

        async def noted_commit() -> None:
            await commit()
            steps.append("committed")

        producer.begin_transaction, producer.commit_transaction = noted_begin, noted_commit

    async with committing(settings, producers=3, records_max=1, tap=note) as (committer, _):
        members = [committer.submit([outgoing(topic, b"%d" % number)]) for number in range(6)]
        await soon(asyncio.gather(*members))
    assert steps == ["begin", "committed"] * 6
