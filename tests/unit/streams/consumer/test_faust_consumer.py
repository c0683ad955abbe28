"""A coroutine's first step is taken at once; a seek moves each partition."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import Fetcher, OffsetResetStrategy
from aiokafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    IllegalStateError,
    NodeNotReadyError,
    RequestTimedOutError,
)
from faust.types import TP
from intervaltree import IntervalTree

from millstream.streams.consumer.eager import eager_start
from millstream.streams.consumer.faust_consumer import (
    CommittedConsumer,
    CommittedConsumerThread,
)
from millstream.streams.consumer.offset_gaps import OffsetGap


async def test_a_coroutine_that_need_not_wait_is_done_at_once() -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    assert eager_start(work()) is None
    assert done == [1]


async def test_the_rest_of_a_coroutine_that_waits_goes_on_in_another_task() -> None:
    given: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    heard: list[int] = []

    async def work() -> str:
        heard.append(await given)
        heard.append(await asyncio.wait_for(asyncio.shield(given), 5))
        return "done"

    rest = eager_start(work())
    assert rest is not None
    assert heard == []

    async def wait_for_rest() -> Any:
        return await rest

    task = asyncio.create_task(wait_for_rest())
    given.set_result(7)
    assert await task == "done"
    assert heard == [7, 7]


async def test_an_error_of_the_first_step_comes_at_once_and_a_later_one_where_it_is_awaited() -> (
    None
):
    given: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def fail() -> None:
        int("at once")

    async def fail_later() -> None:
        await given
        int("later")

    with pytest.raises(ValueError, match="at once"):
        eager_start(fail())
    rest = eager_start(fail_later())
    assert rest is not None
    given.set_result(0)
    with pytest.raises(ValueError, match="later"):
        await rest


async def test_whoever_cancels_the_wait_cancels_the_coroutine() -> None:
    given: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await given
        finally:
            cleaned.append("cleaned")

    rest = eager_start(work())

    async def wait_for_rest() -> Any:
        assert rest is not None
        return await rest

    task = asyncio.create_task(wait_for_rest())
    await asyncio.to_thread(lambda: None)  # it waits by now
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["cleaned"]
    assert given.cancelled()


class CommittedAt5(AIOKafkaConsumer):  # type: ignore[misc]
    """A consumer that has no broker: its group has committed offset 5 of partition 1 only."""

    async def committed(self, partition: TopicPartition) -> int | None:
        return 5 if partition.partition == 1 else None


async def test_a_seek_moves_a_partition_without_a_committed_offset_to_its_beginning() -> None:
    uncommitted, committed = TopicPartition("requests", 0), TopicPartition("requests", 1)
    consumer = CommittedAt5("requests", group_id="lanes")
    consumer._subscription.assign_from_subscribed([uncommitted, committed])
    consumer._fetcher = Fetcher(consumer._client, consumer._subscription)
    thread = CommittedConsumerThread.__new__(CommittedConsumerThread)
    thread._consumer, thread._known_committed = consumer, {}
    assignment = consumer._subscription.subscription.assignment
    try:
        for partition in (uncommitted, committed):  # as after a fetch of the record at offset 6
            consumer.seek(partition, 7)
        offsets = await thread.seek_to_committed_of([TP(*uncommitted), TP(*committed)])
        moved = {partition: assignment.state_value(partition) for partition in offsets}
        assert offsets == {uncommitted: None, committed: 5}
        assert moved[committed].position == 5
        assert moved[uncommitted].reset_strategy == OffsetResetStrategy.EARLIEST
    finally:
        await consumer._fetcher.close()
        await consumer._client.close()
        consumer._closed = True  # it was never started, so `stop` would find parts missing


class Refusing(AIOKafkaConsumer):  # type: ignore[misc]
    """A consumer that has no broker: a commit comes to what it is told."""

    outcome: Exception | None = None
    committed_offsets: dict[TopicPartition, Any]

    async def commit(self, offsets: dict[TopicPartition, Any]) -> None:
        if self.outcome is not None:
            raise self.outcome
        self.committed_offsets = offsets


@asynccontextmanager
async def refusing() -> AsyncIterator[tuple[CommittedConsumerThread, Refusing, list[Exception]]]:
    """Give a thread on such a consumer, which has been dealt partition 0, and what crashed it."""
    consumer = Refusing("requests", group_id="lanes")
    consumer._subscription.assign_from_subscribed([TopicPartition("requests", 0)])
    consumer._fetcher = Fetcher(consumer._client, consumer._subscription)
    consumer._coordinator = SimpleNamespace(_heartbeat_task=object())
    crashed: list[Exception] = []

    class Thread(CommittedConsumerThread):  # type: ignore[misc]
        async def crash(self, error: Exception) -> None:
            crashed.append(error)

    thread = Thread.__new__(Thread)
    thread._consumer, thread._known_committed = consumer, {}
    thread.app = SimpleNamespace(may_commit=lambda _tp: True)
    try:
        yield thread, consumer, crashed
    finally:
        await consumer._fetcher.close()
        await consumer._client.close()
        consumer._closed = True


@pytest.mark.parametrize(
    "outcome",
    [NodeNotReadyError(), RequestTimedOutError(), CommitFailedError(), IllegalStateError("gone")],
)
async def test_commit_that_an_outage_refused_is_left_for_later(outcome: Exception) -> None:
    async with refusing() as (thread, consumer, crashed):
        consumer.outcome = outcome
        assert not await thread._commit({TP("requests", 0): 5})
        assert crashed == []
        consumer.outcome = None
        assert await thread._commit({TP("requests", 0): 5, TP("requests", 1): 5})
        assert list(consumer.committed_offsets) == [TopicPartition("requests", 0)]


async def test_what_the_app_would_not_have_committed_yet_is_left() -> None:
    async with refusing() as (thread, consumer, _):
        thread.app.may_commit = lambda tp: tp.partition != 0
        assert await thread._commit({TP("requests", 0): 5})
        assert not hasattr(consumer, "committed_offsets")
        thread.app.may_commit = lambda _tp: True
        assert await thread._commit({TP("requests", 0): 6})
        assert consumer.committed_offsets[TopicPartition("requests", 0)].offset == 6


async def test_commit_that_is_denied_ends_the_app() -> None:
    async with refusing() as (thread, consumer, crashed):
        denied = consumer.outcome = GroupAuthorizationFailedError("lanes")
        assert not await thread._commit({TP("requests", 0): 5})
        assert crashed == [denied]


async def test_partition_that_is_fetched_has_the_time_of_its_last_answer() -> None:
    async with refusing() as (thread, consumer, _):
        first = TopicPartition("requests", 0)
        state = consumer._subscription.subscription.assignment.state_value(first)
        assert thread.answered() == {TP(*first): None}
        state.timestamp = 7
        assert thread.answered() == {TP(*first): 7}
        consumer._fetcher._records[first] = object()  # fetched, and not read yet
        assert thread.answered() == {}
        consumer._fetcher._records.clear()
        consumer.pause(first)
        assert thread.answered() == {}


def a_consumer(*, committed: int) -> Any:
    """Give Faust's consumer as it is after a seek to what is committed, without a broker."""
    consumer = CommittedConsumer.__new__(CommittedConsumer)
    consumer._gap, consumer._acked = defaultdict(IntervalTree), defaultdict(list)
    consumer._acked_index = defaultdict(set)
    consumer._read_offset = defaultdict(lambda: None, {PLACE: committed})
    consumer._committed_offset = defaultdict(lambda: None, {PLACE: committed})
    told: list[OffsetGap] = []
    consumer.app = SimpleNamespace(on_gap=told.append, told=told)
    return consumer


PLACE = TP("requests", 0)


@pytest.mark.parametrize("read_from", [9, 5_000_000_000, 0, 2])
async def test_behind_a_gap_records_are_read_and_committed(read_from: int) -> None:
    consumer = a_consumer(committed=5)
    gap = OffsetGap(*PLACE, stood_at=5, read_from=read_from)
    consumer._pass_over(gap)
    assert consumer.app.told == [gap]
    read = consumer._read_offset[PLACE]
    assert read is None or read <= read_from
    for offset in (read_from, read_from + 1):
        committed = consumer._committed_offset[PLACE]
        assert committed is None or offset >= committed
        consumer._acked[PLACE].append(offset)
    assert consumer._filter_committable_offsets([PLACE]) == {PLACE: read_from + 2}


async def test_what_runs_before_records_that_were_lost_is_committed_first() -> None:
    consumer = a_consumer(committed=5)
    consumer._acked[PLACE] = [5, 6]
    consumer._read_offset[PLACE] = 7
    consumer._pass_over(OffsetGap(*PLACE, stood_at=8, read_from=12))
    await consumer._add_gap(PLACE, 8, 12)
    consumer._acked[PLACE].append(12)
    # 7 runs still.
    assert consumer._filter_committable_offsets([PLACE]) == {PLACE: 7}
