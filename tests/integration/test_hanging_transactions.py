"""Transactions that a broker left without a marker end as they were decided, and no others do."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic

from millstream.schemas.errors import LaneLost
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import (
    ATTEMPTS,
    CHECKPOINTS,
    COSTS,
    DECISIONS,
    LANES,
    RESULTS,
    SESSIONS,
    TopicSpec,
)
from millstream.streams.broker.clients import admin_client
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.raw_broker import raw_log
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from millstream.streams.transactions.hanging.describe import OpenTransaction
from millstream.streams.transactions.hanging.recovery import HangingTransactions
from millstream.streams.wire.partitioning import home_partition
from tests.harness.hanging import end_one, hang, producing, unverified
from tests.harness.lanes import ask, lane_services, one_lane, read_topic, upstream

A_SECOND_MS = 1000


@pytest.fixture
async def brokers(settings: Settings) -> AsyncIterator[None]:
    async with unverified(settings):
        yield


@pytest.fixture
async def log(settings: Settings) -> TopicPartition:
    specs = [SESSIONS, RESULTS, COSTS]
    await ensure_topics(settings, specs)
    for spec in specs:  # a new topic's leader may not know at once that it is
        assert await readable(settings, place(settings, spec)) == []
    return place(settings, SESSIONS)


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    async with producing(settings, transactional_id(settings)) as started:
        yield started


def transactional_id(settings: Settings) -> str:
    return f"{settings.namespace}-chain-0-0"


def place(settings: Settings, spec: TopicSpec, partition: int = 0) -> TopicPartition:
    return TopicPartition(settings.topic(spec.name), partition)


async def looked(
    settings: Settings, *places: TopicPartition, times: int, fenced: bool = True
) -> tuple[frozenset[OpenTransaction], list[OpenTransaction]]:
    """Give what hangs at the last of so many looks, and what was ended in all."""
    transactions = HangingTransactions(settings, places)
    if fenced:
        transactions.fenced = frozenset({transactional_id(settings)})
    seen: frozenset[OpenTransaction] = frozenset()
    async with raw_log(settings, {where.topic for where in places}) as raw:
        for _ in range(times):
            seen = await transactions._look(raw, seen)
    return seen, transactions.ended


async def readable(settings: Settings, where: TopicPartition) -> list[bytes]:
    """Give what a reader of committed records finds before the end; it must be there at once."""
    reader = PartitionReader(settings)
    await reader.start()
    try:
        ends = await reader.high_watermarks([where])
        return [record.value async for record in reader.read(ends, stall_timeout_s=2)]
    finally:
        await reader.stop()


@pytest.mark.usefixtures("brokers")
@pytest.mark.parametrize(("is_commit", "found"), [(True, [b"x"]), (False, [])])
async def test_the_marker_on_another_partition_decides(
    settings: Settings,
    log: TopicPartition,
    producer: AIOKafkaProducer,
    is_commit: bool,  # noqa: FBT001
    found: list[bytes],
) -> None:
    results, costs = place(settings, RESULTS), place(settings, COSTS)
    await end_one(producer, [results, costs], is_commit=not is_commit)
    # A coordinator lets no transaction begin before all markers of the last one are written.
    for where in (results, costs):
        await readable(settings, where)
    await hang(settings, producer, log, b"x")
    await end_one(producer, [results], is_commit=is_commit)
    await end_one(producer, [costs], is_commit=not is_commit)
    with pytest.raises(LaneLost, match="open transaction"):
        await readable(settings, log)
    hanging, ended = await looked(settings, log, results, costs, times=1)
    assert [one.where for one in hanging] == [log]
    assert ended == []
    _, ended = await looked(settings, log, results, costs, times=2)
    assert [one.where for one in ended] == [log]
    assert await readable(settings, log) == found
    assert await looked(settings, log, results, costs, times=2) == (frozenset(), [])


@pytest.mark.usefixtures("brokers")
@pytest.mark.parametrize(("is_commit", "found"), [(True, [b"{}", b"x"]), (False, [])])
async def test_the_coordinators_log_decides_where_no_partition_has_a_marker(
    settings: Settings,
    producer: AIOKafkaProducer,
    is_commit: bool,  # noqa: FBT001
    found: list[bytes],
) -> None:
    topic = f"{settings.namespace}-{secrets.token_hex(4)}"
    await with_times_of_its_own(settings, topic)
    where = TopicPartition(topic, 0)
    await producer.begin_transaction()
    sent = await producer.send_and_wait(topic, b"{}", b"key", partition=0)
    await (producer.commit_transaction() if is_commit else producer.abort_transaction())
    # It is answered before its marker is written, which would end what hangs before it, too.
    await readable(settings, where)
    # Without the marker that there is: this one says that it came before the decision.
    await hang(settings, producer, where, b"x", at_ms=sent.timestamp - A_SECOND_MS)
    _, ended = await looked(settings, where, times=2)
    assert [one.where for one in ended] == [where]
    assert await readable(settings, where) == found


@pytest.mark.usefixtures("brokers")
async def test_what_several_decisions_stand_for_is_left_to_people(
    settings: Settings, producer: AIOKafkaProducer
) -> None:
    topic = f"{settings.namespace}-{secrets.token_hex(4)}"
    await with_times_of_its_own(settings, topic)
    where = TopicPartition(topic, 0)
    await producer.begin_transaction()
    sent = await producer.send_and_wait(topic, b"{}", b"key", partition=0)
    await producer.commit_transaction()
    await end_one(producer, [where], is_commit=False)
    await readable(settings, where)  # the marker is there, or it would end what hangs, too
    await hang(settings, producer, where, b"x", at_ms=sent.timestamp - A_SECOND_MS)
    hanging, ended = await looked(settings, where, times=3)
    assert [one.where for one in hanging] == [where]
    assert ended == []


@pytest.mark.usefixtures("brokers")
async def test_what_nobody_ever_decided_on_is_aborted(
    settings: Settings, log: TopicPartition, producer: AIOKafkaProducer
) -> None:
    await hang(settings, producer, log, b"x")
    _, ended = await looked(settings, log, place(settings, RESULTS), times=2)
    assert [one.where for one in ended] == [log]
    assert await readable(settings, log) == []


async def test_what_a_coordinator_has_in_hand_is_left_alone_and_waited_for(
    settings: Settings, log: TopicPartition, producer: AIOKafkaProducer
) -> None:
    await producer.begin_transaction()
    await producer.send_and_wait(log.topic, b"x", b"key", partition=0)
    assert await looked(settings, log, times=3) == (frozenset(), [])
    waiting = asyncio.create_task(readable(settings, log))
    await producer.commit_transaction()
    assert await waiting == [b"x"]


@pytest.mark.usefixtures("brokers")
async def test_what_hangs_of_a_producer_that_was_not_fenced_is_left_alone(
    settings: Settings, log: TopicPartition, producer: AIOKafkaProducer
) -> None:
    await hang(settings, producer, log, b"x")
    assert await looked(settings, log, times=3, fenced=False) == (frozenset(), [])


@pytest.mark.slow
@pytest.mark.usefixtures("brokers")
@pytest.mark.parametrize(
    "spec", [SESSIONS, CHECKPOINTS, LANES, DECISIONS], ids=lambda one: one.name
)
async def test_a_lane_with_a_hanging_transaction_opens_and_serves(
    settings: Settings, spec: TopicSpec
) -> None:
    partition = home_partition("ada", settings.partitions)
    where = place(settings, spec, partition)
    async with lane_services(settings) as services, upstream(settings) as program:
        async with one_lane(settings, services, None):
            pass
        async with producing(settings, f"{settings.namespace}-chain-{partition}-1") as owner:
            await hang(settings, owner, where, b"{}")
            await end_one(owner, [place(settings, COSTS, partition)], is_commit=True)
        async with one_lane(settings, services, None) as lane:
            assert b"{}" in await readable(settings, where)
            lane.serve(*await ask(program, "say: x"))
            (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
    assert result.status == "completed"


@pytest.mark.slow
@pytest.mark.usefixtures("brokers")
async def test_a_lane_does_not_open_behind_what_hangs_where_a_snapshot_spares_it_the_reading(
    settings: Settings,
) -> None:
    where = place(settings, ATTEMPTS, home_partition("ada", settings.partitions))
    async with lane_services(settings) as services, upstream(settings) as program:
        async with one_lane(settings, services, None) as lane:
            lane.serve(*await ask(program, "say: x"))
            await read_topic(settings, RESULTS, AgentResult, count=1)
            (owner, *_) = lane.lane._committer._transactions._producers
            await hang(settings, owner._producer, where, b"{}")
            # As far as it was told, this has been committed: its snapshot covers it.
            lane.lane._writer.next_offsets[ATTEMPTS.name] += 1
            await lane.lane.close()
            assert lane.lane._snapshots.taken == 1
        with pytest.raises(LaneLost, match="open transaction"):
            await readable(settings, where)
        async with one_lane(settings, services, None):
            await readable(settings, where)


async def with_times_of_its_own(settings: Settings, topic: str) -> None:
    """Create a topic whose records keep the times that they come with."""
    admin = admin_client(settings)
    await admin.start()
    try:
        configs = {"message.timestamp.type": "CreateTime"}
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=configs)])
    finally:
        await admin.close()
