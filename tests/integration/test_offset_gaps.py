"""Lanes whose committed offsets the log does not have: told, and every request has one result."""

from __future__ import annotations

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.protocol.admin import DeleteGroupsRequest
from faust.types import TP

from millstream.schemas.events import AgentResult
from millstream.schemas.topics import BASE_TOPICS, CONTROL, REQUESTS, RESULTS
from millstream.streams.broker.clients import admin_client, connecting
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.consumer.group_offsets import committed_gaps
from millstream.streams.lane.lanes import Lanes
from millstream.streams.settings import Settings
from tests.harness.lanes import read_topic, read_whole, running_lanes, upstream
from tests.support import eventually


async def commit_offset(settings: Settings, topic: str, offset: int) -> None:
    """Alter what the lanes' group has committed, as an operator may while no worker runs."""
    consumer = AIOKafkaConsumer(
        **connecting(settings),
        group_id=f"{settings.namespace}-lanes",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        where = TopicPartition(topic, 0)
        consumer.assign([where])
        await consumer.commit({where: offset})
    finally:
        await consumer.stop()


async def delete_group(settings: Settings) -> None:
    """Delete the lanes' group with its offsets, as `kafka-consumer-groups --delete` does."""
    group, admin = f"{settings.namespace}-lanes", admin_client(settings)
    await admin.start()
    try:
        coordinator = await admin.find_coordinator(group)
        answer = await admin._client.send(coordinator, DeleteGroupsRequest([group]))
        assert list(answer.results) == [(group, 0)]
    finally:
        await admin.close()


def counted(lanes: Lanes, name: str, topic: str) -> float:
    """Give a counter of the lanes' for a topic."""
    return float(getattr(lanes._services.metrics, name).labels(topic=topic)._value.get())


@pytest.mark.promise("P1")
async def test_offsets_beyond_the_end_are_told_and_all_is_answered_once(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"partitions": 1})
    async with upstream(settings) as program:
        async with running_lanes(settings):
            for number in range(2):
                await program.publish({"user_id": "ada", "input": f"say: {number}"})
            await read_topic(settings, RESULTS, AgentResult, count=2)
        for spec in (REQUESTS, CONTROL):
            await commit_offset(settings, settings.topic(spec.name), 1000)
        assert [one.stood_at for one in await committed_gaps(settings)] == [1000, 1000]
        async with running_lanes(settings) as (lanes,):
            await program.publish({"user_id": "ada", "input": "say: 2"})
            await read_topic(settings, RESULTS, AgentResult, count=3)
            await eventually(lambda: counted(lanes, "logs_set_back", "control") == 1)
            assert counted(lanes, "logs_set_back", "requests") == 1
            assert counted(lanes, "lost_to_retention", "requests") == 0
        # What was committed since is right again, also where nothing came: nothing is told twice.
        assert await committed_gaps(settings) == ()
        async with running_lanes(settings) as (lanes,):
            await program.publish({"user_id": "ada", "input": "say: 3"})
            await read_topic(settings, RESULTS, AgentResult, count=4)
            assert counted(lanes, "logs_set_back", "requests") == 0
            assert counted(lanes, "logs_set_back", "control") == 0
    results = await read_whole(settings, RESULTS, AgentResult)
    # The first two are of sessions of their own, and ran side by side.
    assert sorted(str(result.output) for result in results) == ["0", "1", "2", "3"]


@pytest.mark.promise("P1")
async def test_a_topic_that_is_made_anew_under_its_lanes_is_read_from_its_beginning(
    settings: Settings,
) -> None:
    # confluentinc/confluent-kafka-python#1787, streamnative/kop#530: nothing is read, and no error.
    # With the topic its brokers delete the group's offsets, so only the worker knows that it stood.
    settings = settings.model_copy(update={"partitions": 1})
    requests = settings.topic(REQUESTS.name)
    async with running_lanes(settings) as (lanes,):
        async with upstream(settings) as program:
            for number in range(2):
                await program.publish({"user_id": "ada", "input": f"say: {number}"})
            await read_topic(settings, RESULTS, AgentResult, count=2)
        await eventually(lambda: lanes.app.consumer._committed_offset[TP(requests, 0)] == 2)
        admin = admin_client(settings)
        await admin.start()
        try:
            await admin.delete_topics([requests])
        finally:
            await admin.close()
        client = lanes.app.consumer._thread._consumer._client
        await eventually(lambda: not client.cluster.partitions_for_topic(requests))
        assert f"brokers have no topic {requests}: " in str(lanes.unready())
        await ensure_topics(settings, BASE_TOPICS)
        async with upstream(settings) as program:
            await program.publish({"user_id": "ada", "request_id": "anew", "input": "say: 2"})
            await read_topic(settings, RESULTS, AgentResult, count=3)
        assert lanes.unready() is None
        assert counted(lanes, "logs_set_back", "requests") == 1
        assert counted(lanes, "lost_to_retention", "requests") == 0
    results = await read_whole(settings, RESULTS, AgentResult)
    # The first two are of sessions of their own, and ran side by side.
    assert sorted(str(result.output) for result in results) == ["0", "1", "2"]


@pytest.mark.promise("P1")
async def test_requests_that_retention_took_unread_are_counted_and_the_others_answered(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"partitions": 1})
    async with upstream(settings) as program:
        async with running_lanes(settings):
            await program.publish({"user_id": "ada", "input": "say: 0"})
            await read_topic(settings, RESULTS, AgentResult, count=1)
        for number in range(1, 5):
            await program.publish({"user_id": "ada", "input": f"say: {number}"})
        where = TopicPartition(settings.topic(REQUESTS.name), 0)
        admin = admin_client(settings)
        await admin.start()
        try:
            await admin.delete_records({where: RecordsToDelete(before_offset=4)})
        finally:
            await admin.close()
        (gap,) = await committed_gaps(settings)
        assert (gap.stood_at, gap.read_from, gap.lost_max) == (1, 4, 3)
        async with running_lanes(settings) as (lanes,):
            await read_topic(settings, RESULTS, AgentResult, count=2)
            assert counted(lanes, "lost_to_retention", "requests") == 3
            assert counted(lanes, "logs_set_back", "requests") == 0
        # Where it reads on is committed (faust-streaming/faust#318: it was not, at every start).
        assert await committed_gaps(settings) == ()
        async with running_lanes(settings) as (lanes,):
            await program.publish({"user_id": "ada", "input": "say: 5"})
            await read_topic(settings, RESULTS, AgentResult, count=3)
            assert counted(lanes, "lost_to_retention", "requests") == 0
    results = await read_whole(settings, RESULTS, AgentResult)
    assert [result.output for result in results] == ["0", "4", "5"]


@pytest.mark.promise("P1")
async def test_a_group_that_was_deleted_is_told_and_all_is_answered_once(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"partitions": 1})
    async with upstream(settings) as program:
        async with running_lanes(settings) as (lanes,):
            for number in range(2):
                await program.publish({"user_id": "ada", "input": f"say: {number}"})
            await read_topic(settings, RESULTS, AgentResult, count=2)
            # A group that is new has nothing committed either.
            assert counted(lanes, "offsets_gone", "requests") == 0
        assert await committed_gaps(settings) == ()
        await delete_group(settings)
        (gap,) = await committed_gaps(settings)
        assert (gap.topic, gap.stood_at) == (settings.topic(REQUESTS.name), None)
        async with running_lanes(settings) as (lanes,):
            await program.publish({"user_id": "ada", "input": "say: 2"})
            await read_topic(settings, RESULTS, AgentResult, count=3)
            assert counted(lanes, "offsets_gone", "requests") == 1
            assert "offsets are gone" in lanes._services.gaps.told()[0]
        assert await committed_gaps(settings) == ()
    results = await read_whole(settings, RESULTS, AgentResult)
    # The first two are of sessions of their own, and ran side by side.
    assert sorted(str(result.output) for result in results) == ["0", "1", "2"]
