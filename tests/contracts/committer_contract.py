"""What group commit does on whatever broker: together or not at all, in order, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiokafka import TopicPartition

from millstream.schemas.errors import LaneFenced, LaneLost
from millstream.schemas.topics import RECORD_BYTES_MAX
from millstream.streams.broker.batches import Outgoing
from millstream.streams.transactions.committer import CommitRefused, Committer
from millstream.streams.transactions.producers import TransactionalProducer
from millstream.streams.wire.codec import Encoded
from tests.contracts.log_world import (
    PRODUCE_BYTES_SMALL,
    LogWorld,
    all_committed,
    sent,
    soon,
    started,
    turns,
    written,
)

Tap = Callable[[TransactionalProducer], None]
"""Puts something into the way of a producer."""


@asynccontextmanager
async def committing(
    world: LogWorld,
    *,
    producers: int = 2,
    transactional_id: str = "lane",
    gather_s: float = 0.0,
    records_max: int = 100,
    timeout_s: float = 20,
    tap: Tap = lambda _producer: None,
) -> AsyncIterator[tuple[Committer, list[LaneLost]]]:
    """Run a committer."""
    lost: list[LaneLost] = []

    def make(number: int) -> TransactionalProducer:
        producer = world.producer(f"{transactional_id}-{number}")
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


def outgoing(where: TopicPartition, value: bytes, partition: int = 0) -> Outgoing:
    return Outgoing(where.topic, partition, Encoded(b"key", value, [("h", b"v")]))


class CommitterContract:
    """Cases of a committer; a subclass gives the `world` fixture."""

    async def test_what_comes_while_a_commit_is_under_way_leaves_in_one_transaction(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")
        async with committing(world) as (committer, lost):
            members = [
                committer.submit([outgoing(topic, b"%d-%d" % (number, part)) for part in range(2)])
                for number in range(20)
            ]
            offsets = await soon(asyncio.gather(*members))
            assert committer.transactions == 1
            assert committer.records == 40
        records = await all_committed(world, topic)
        by_offset = {record.offset: record.value for record in records}
        for number, pair in enumerate(offsets):
            assert [by_offset[one] for one in pair] == [b"%d-0" % number, b"%d-1" % number]
        assert [record.value for record in records] == [
            b"%d-%d" % (number, part) for number in range(20) for part in range(2)
        ]
        assert records[0].headers == (("h", b"v"),)
        assert lost == []

    async def test_records_of_several_batches_keep_their_order_and_are_told_their_offsets(
        self, world: LogWorld
    ) -> None:
        large, small = await world.create("large"), await world.create("small")
        async with committing(world) as (committer, _):
            records = [
                outgoing(topic, b"%d" % number * size)
                for number in range(8)
                for topic, size in ((large, 100_000), (small, 1))
            ]
            offsets = await soon(committer.submit(records))
            assert committer.transactions == 1
        for topic, start, size in ((large, 0, 100_000), (small, 1, 1)):
            stand = {one.offset: one.value for one in await all_committed(world, topic)}
            told = [stand[offset] for offset in offsets[start::2]]
            assert told == [b"%d" % number * size for number in range(8)]

    async def test_transactions_go_round_the_producers_and_keep_their_order(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")
        async with committing(world, producers=3) as (committer, _):
            for number in range(7):
                await soon(committer.submit([outgoing(topic, b"%d" % number)]))
            assert committer.transactions == 7
        values = [record.value for record in await all_committed(world, topic)]
        assert values == [b"%d" % number for number in range(7)]

    async def test_under_load_a_commit_waits_for_others_to_go_with_it(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")
        async with committing(world, gather_s=0.5) as (committer, _):
            loaded = [committer.submit([outgoing(topic, b"%d" % number)]) for number in range(2)]
            await soon(asyncio.gather(*loaded))
            first = committer.submit([outgoing(topic, b"2")])
            await turns(5)  # its commit would be under way by now
            second = committer.submit([outgoing(topic, b"3")])
            await soon(asyncio.gather(first, second))
            assert committer.transactions == 2

    async def test_an_idle_lane_commits_without_waiting_for_company(self, world: LogWorld) -> None:
        topic = await world.create("out")
        async with committing(world, gather_s=3600) as (committer, _):
            for number in range(3):
                lazy = committer.submit([outgoing(topic, b"lazy")], lazy=True)
                await soon(committer.submit([outgoing(topic, b"%d" % number)]))
                await soon(lazy)
            assert committer.transactions == 3

    async def test_a_transaction_that_was_begun_and_never_committed_holds_nobody_up(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")
        async with committing(world) as (committer, _):
            await soon(committer.submit([outgoing(topic, b"before")]))
            dropped = committer.submit([outgoing(topic, b"dropped")], lazy=True)
            await turns(5)  # its transaction has begun by now
        with pytest.raises(LaneLost):
            await dropped
        async with committing(world) as (committer, lost):
            for number in range(2):
                await soon(committer.submit([outgoing(topic, b"%d" % number)]))
            assert lost == []
        values = [record.value for record in await all_committed(world, topic)]
        assert values == [b"before", b"0", b"1"]

    async def test_lazy_records_go_with_the_next_ones_or_by_themselves(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")
        async with committing(world) as (committer, _):
            lazy = committer.submit([outgoing(topic, b"lazy")], lazy=True)
            await soon(committer.submit([outgoing(topic, b"prompt")]))
            assert lazy.done()
            assert committer.transactions == 1
            await soon(committer.submit([outgoing(topic, b"alone")], lazy=True))
            assert committer.transactions == 2

    async def test_what_has_no_records_is_done_when_all_before_it_is_and_makes_no_transaction(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")
        done: list[str] = []
        async with committing(world) as (committer, _):
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

    @pytest.mark.rule(1)
    async def test_a_record_that_no_broker_takes_fails_only_its_own_member(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")
        async with committing(world) as (committer, lost):
            before = committer.submit([outgoing(topic, b"before")])
            oversized = committer.submit(
                [outgoing(topic, b"beside"), outgoing(topic, b"x" * RECORD_BYTES_MAX)]
            )
            after = committer.submit([outgoing(topic, b"after")])
            with pytest.raises(CommitRefused, match="bytes"):
                await soon(oversized)
            await soon(asyncio.gather(before, after))
        values = [record.value for record in await all_committed(world, topic)]
        assert values == [b"before", b"after"]
        assert lost == []

    @pytest.mark.rule(1)
    async def test_a_record_that_this_topic_refuses_fails_only_its_own_member(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out", is_small=True)
        takes_all = await world.create("takes-all")
        async with committing(world) as (committer, lost):
            before = committer.submit([outgoing(topic, b"before")])
            refused = committer.submit(
                [outgoing(takes_all, b"beside"), outgoing(topic, b"x" * 2 * PRODUCE_BYTES_SMALL)]
            )
            after = committer.submit([outgoing(topic, b"after")])
            with pytest.raises(CommitRefused, match="refused"):
                await soon(refused)
            await soon(asyncio.gather(before, after))
            for number in range(4):  # each producer still works
                await soon(committer.submit([outgoing(topic, b"later %d" % number)]))
            await soon(committer.submit([outgoing(takes_all, b"alone")]))
        (alone,) = await all_committed(world, takes_all)
        assert alone.value == b"alone"  # what the broker took beside the refused record was aborted
        values = [record.value for record in await all_committed(world, topic)]
        assert values == [b"before", b"after", *(b"later %d" % number for number in range(4))]
        assert lost == []

    async def test_a_second_owner_fences_the_first_which_is_told_once(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")
        async with AsyncExitStack() as stack:
            first, first_lost = await stack.enter_async_context(committing(world))
            await soon(first.submit([outgoing(topic, b"first")]))
            second, second_lost = await stack.enter_async_context(committing(world))
            late = [first.submit([outgoing(topic, b"late %d" % number)]) for number in range(3)]
            outcomes = await soon(asyncio.gather(*late, return_exceptions=True))
            assert [type(outcome) for outcome in outcomes] == [LaneFenced] * 3
            with pytest.raises(LaneFenced):
                await soon(first.submit([outgoing(topic, b"later still")]))
            assert [type(one) for one in first_lost] == [LaneFenced]
            await soon(second.submit([outgoing(topic, b"second")]))
            assert second_lost == []
        values = [record.value for record in await all_committed(world, topic)]
        assert values == [b"first", b"second"]

    async def test_who_waits_when_a_committer_stops_is_told(self, world: LogWorld) -> None:
        topic = await world.create("out")
        async with committing(world) as (committer, lost):
            waiting = [committer.submit([outgoing(topic, b"x")]) for _ in range(3)]
            await committer.stop()
            outcomes = await soon(asyncio.gather(*waiting, return_exceptions=True))
            assert [type(outcome) for outcome in outcomes] == [LaneLost] * 3
            with pytest.raises(LaneLost):
                await soon(committer.submit([outgoing(topic, b"after")]))
            assert lost == []

    async def test_an_error_that_nobody_foresaw_loses_the_lane_instead_of_hanging_it(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")
        async with committing(world) as (committer, lost):
            # aiokafka asserts that a partition exists.
            nowhere = committer.submit([outgoing(topic, b"x", partition=9)])
            await asyncio.wait({nowhere}, timeout=5)
            assert nowhere.done()
            assert isinstance(nowhere.exception(), LaneLost)
            assert len(lost) == 1

    @pytest.mark.rule(2)
    async def test_a_commit_whose_outcome_is_unknown_loses_the_lane_and_is_not_repeated(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")

        def lose_answers(producer: TransactionalProducer) -> None:
            commit = producer.commit_transaction

            async def commit_and_hear_nothing() -> None:
                await commit()
                await asyncio.get_running_loop().create_future()

            producer.commit_transaction = commit_and_hear_nothing

        async with committing(world, timeout_s=world.timeout_s, tap=lose_answers) as (
            committer,
            lost,
        ):
            unknown = committer.submit([outgoing(topic, b"once")])
            with pytest.raises(LaneLost, match="unknown"):
                await asyncio.wait_for(unknown, 10)
            with pytest.raises(LaneLost):
                await soon(committer.submit([outgoing(topic, b"after")]))
            assert len(lost) == 1
        async with committing(world) as (committer, _):
            await soon(committer.submit([outgoing(topic, b"the next owner's")]))
        values = [record.value for record in await all_committed(world, topic)]
        assert values == [b"once", b"the next owner's"]

    @pytest.mark.rule(5)
    async def test_one_transaction_is_open_at_a_time(self, world: LogWorld) -> None:
        topic = await world.create("out")
        steps: list[str] = []

        def note(producer: TransactionalProducer) -> None:
            begin, commit = producer.begin_transaction, producer.commit_transaction

            async def noted_begin() -> None:
                steps.append("begin")
                await begin()

            async def noted_commit() -> None:
                await commit()
                steps.append("committed")

            producer.begin_transaction, producer.commit_transaction = noted_begin, noted_commit

        async with committing(world, producers=3, records_max=1, tap=note) as (committer, _):
            members = [committer.submit([outgoing(topic, b"%d" % number)]) for number in range(6)]
            await soon(asyncio.gather(*members))
        assert steps == ["begin", "committed"] * 6

    async def test_a_commit_that_never_reached_the_broker_is_aborted_by_the_next_owner(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")

        def lose_requests(producer: TransactionalProducer) -> None:
            async def send_nothing() -> None:
                await asyncio.get_running_loop().create_future()

            producer.commit_transaction = send_nothing

        async with committing(world, timeout_s=world.timeout_s, tap=lose_requests) as (first, _):
            with pytest.raises(LaneLost, match="unknown"):
                await soon(first.submit([outgoing(topic, b"lost")]))
        await written(world, topic, b"beside")
        async with committing(world) as (committer, _):
            await soon(committer.submit([outgoing(topic, b"the next owner's")]))
        values = [record.value for record in await all_committed(world, topic)]
        assert values == [b"beside", b"the next owner's"]

    async def test_what_the_last_owner_left_open_is_aborted_when_the_next_one_starts(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")
        async with started(world.producer("lane-1")) as last:
            await last.begin_transaction()
            await soon(await sent(last, topic, b"left"))
            async with committing(world) as (committer, _):
                await soon(committer.submit([outgoing(topic, b"committed")]))
        values = [record.value for record in await all_committed(world, topic)]
        assert values == [b"committed"]

    @pytest.mark.rule(5)
    async def test_an_owner_with_fewer_producers_fences_those_that_it_is_told_of(
        self, world: LogWorld
    ) -> None:
        topic = await world.create("out")
        async with (
            committing(world, producers=3) as (last, lost),
            committing(world, producers=1) as (committer, _),
        ):
            await soon(committer.fence_up_to(3))
            outcomes = [
                await asyncio.gather(
                    last.submit([outgoing(topic, b"late")]), return_exceptions=True
                )
                for _ in range(3)
            ]
            assert [type(outcome) for (outcome,) in outcomes] == [LaneFenced] * 3
            assert len(lost) == 1
            await soon(committer.submit([outgoing(topic, b"new")]))
        values = [record.value for record in await all_committed(world, topic)]
        assert values == [b"new"]
