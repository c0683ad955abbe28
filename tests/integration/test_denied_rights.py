"""What a worker does that may not ask about transactions, or asks brokers that do not know how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError
from structlog.testing import capture_logs

from millstream.schemas.topics import RESULTS, SESSIONS
from millstream.streams.broker.batches import Outgoing
from millstream.streams.broker.clients import transactional_producer
from millstream.streams.broker.raw_broker import raw_log
from millstream.streams.broker.rights.needed import Resource
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from millstream.streams.transactions.committer import Committer
from millstream.streams.transactions.guarded_producer import GuardedProducer
from millstream.streams.transactions.hanging import coordinator_log
from millstream.streams.transactions.hanging.describe import open_transactions
from millstream.streams.transactions.hanging.marker_watch import GuardTimes
from millstream.streams.transactions.hanging.protocol import DescribeProducersRequest
from millstream.streams.transactions.hanging.recovery import HangingTransactions
from millstream.streams.wire.codec import Encoded
from tests.harness.guarded_kafka import forbid, guarded_kafka
from tests.harness.hanging import end_one, hang, producing, unverified
from tests.support import eventually


@pytest.fixture
async def guarded(settings: Settings, tmp_path: Path) -> AsyncIterator[Settings]:
    """A broker of its own that lets everybody do what is not forbidden."""
    async with guarded_kafka(settings, tmp_path) as here:
        await ensure_topics(here, [SESSIONS, RESULTS])
        yield here


async def forbid_reading(settings: Settings, topic: str) -> None:
    await forbid(settings, Resource("topic", topic), "Read")
    await eventually(lambda: is_forbidden(settings, topic))  # the broker is told of it later


async def is_forbidden(settings: Settings, topic: str) -> bool:
    try:
        async with raw_log(settings, {topic}) as raw:
            await open_transactions(raw, [TopicPartition(topic, 0)])
    except TopicAuthorizationFailedError:
        return True
    return False


def place(settings: Settings) -> TopicPartition:
    return TopicPartition(settings.topic(SESSIONS.name), 0)


def transactional_id(settings: Settings) -> str:
    return f"{settings.namespace}-chain-0-0"


async def opening(settings: Settings, lines: list[dict[str, str]], event: str) -> None:
    """Look for what hangs, as a lane does that takes long to open, until `event` is told."""
    transactions = HangingTransactions(
        settings, [place(settings)], held_back_s=0.0, look_every_s=0.05
    )
    transactions.fenced = frozenset({transactional_id(settings)})
    async with transactions.watched():
        await eventually(lambda: [line for line in lines if line["event"] == event])
    assert transactions.ended == []


@pytest.mark.slow
async def test_without_the_right_to_read_a_topic_lanes_serve_and_say_what_is_missing(
    guarded: Settings,
) -> None:
    where = place(guarded)
    async with producing(guarded, transactional_id(guarded)) as owner, unverified(guarded):
        await hang(guarded, owner, where, b"x")
    await forbid_reading(guarded, where.topic)
    with capture_logs() as lines:
        await opening(guarded, lines, "a lane takes long to open, and whether a transaction "
                      "hangs cannot be asked")  # fmt: skip
    (told,) = lines
    assert "TopicAuthorizationFailed" in told["reason"]
    assert "`Read`" in told["needed"]
    with capture_logs() as lines:
        await commit_often(guarded, where)
    (told,) = [line for line in lines if line["log_level"] == "error"]
    assert "would not be noticed" in told["event"]
    assert "TopicAuthorizationFailed" in told["reason"]
    assert "`Read`" in told["needed"]


@pytest.mark.slow
async def test_without_the_right_to_read_the_coordinators_log_nothing_is_ended_by_guess(
    guarded: Settings,
) -> None:
    where = place(guarded)
    async with producing(guarded, transactional_id(guarded)) as owner, unverified(guarded):
        await hang(guarded, owner, where, b"x")
        # Decided since then, and marked where nobody looks.
        results = TopicPartition(guarded.topic(RESULTS.name), 0)
        await end_one(owner, [results], is_commit=True)
    await forbid_reading(guarded, coordinator_log.TOPIC)
    with capture_logs() as lines:
        await opening(guarded, lines, "a transaction hangs and is not ended")
    assert coordinator_log.TOPIC in lines[0]["reason"]
    assert "give this worker the right `Read` there" in lines[0]["reason"]


@pytest.mark.parametrize("versions", [None, (9, 9)], ids=["unknown", "newer"])
async def test_a_broker_that_does_not_know_the_request_is_served_and_told_of_once(
    settings: Settings, versions: tuple[int, int] | None
) -> None:
    await ensure_topics(settings, [SESSIONS])
    with capture_logs() as lines:
        await commit_often(settings, place(settings), versions)
    (told,) = [line for line in lines if line["log_level"] == "error"]
    assert "would not be noticed" in told["event"]
    assert "IncompatibleBrokerVersion" in told["reason"]
    assert "Kafka 3.0" in told["needed"]


_AS_THEY_ARE = (0, 0)


async def commit_often(
    settings: Settings, where: TopicPartition, versions: tuple[int, int] | None = _AS_THEY_ARE
) -> None:
    """Commit with one producer that asks each time whether its last transaction hangs."""
    (producer,) = made = [transactional_producer(settings, transactional_id(settings))]
    committer = Committer(
        lambda _: GuardedProducer(lambda: made[0], times=GuardTimes(young_s=0.0)),
        producers=1,
        records_max=9,
        timeout_s=20,
        gather_s=0.0,
        on_lost=fail,
    )
    await committer.start()
    try:
        for number in range(4):
            record = Outgoing(where.topic, 0, Encoded(b"key", b"%d" % number, []))
            await asyncio.wait_for(committer.submit([record]), 30)
            for connection in producer.client._conns.values():
                connection._versions.pop(DescribeProducersRequest.API_KEY, None)
                if versions is not None:
                    connection._versions[DescribeProducersRequest.API_KEY] = versions
    finally:
        await committer.stop()


def fail(lost: Exception) -> None:
    raise lost
