"""The clocks of brokers, as records that nobody sees tell of them."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic

from millstream.gateway.checks.clock import clock_of
from millstream.schemas.dead_letters import DeadLetterRedriven
from millstream.schemas.errors import Misconfigured
from millstream.schemas.topics import REDRIVES
from millstream.streams.broker.clients import admin_client, ends_consumer, transactional_producer
from millstream.streams.broker.diagnosis.clocks import broker_clocks
from millstream.streams.broker.raw_broker import raw_log
from millstream.streams.broker.topic_admin import ensure_topics, partition_counts
from millstream.streams.settings import Settings
from tests.harness.lanes import read_whole
from tests.support import eventually

_NEAR_S = 2.0
"""Brokers are on this machine; it may be busy."""


async def test_a_clock_that_agrees_is_told_so_and_no_reader_sees_a_record(
    settings: Settings,
) -> None:
    await ensure_topics(settings, [REDRIVES])
    clocks = await broker_clocks(settings)
    assert [abs(one.ahead_s) < 1 and one.most_s - one.least_s < _NEAR_S for one in clocks] == [True]
    (found,) = await clock_of(settings)
    assert (found.name, found.level) == ("clock", "ok")
    assert "broker 1" in found.told
    assert await read_whole(settings, REDRIVES, DeadLetterRedriven) == []


@pytest.mark.parametrize(
    ("shift_s", "level", "way"),
    [
        (3.0, "note", "ahead of broker 1"),
        (-3.0, "note", "behind broker 1"),
        (3600.0, "wrong", "ahead of broker 1"),
        (-3600.0, "wrong", "behind broker 1"),
    ],
)
async def test_a_clock_that_is_off_is_told_by_how_much_and_which_way(
    settings: Settings, shift_s: float, level: str, way: str
) -> None:
    await ensure_topics(settings, [REDRIVES])
    (found,) = await clock_of(settings, lambda: time.time() + shift_s)
    assert found.level == level
    assert way in found.told
    off_s = float(found.told.removeprefix("this machine is ").split(" s ")[0])
    assert abs(shift_s) - _NEAR_S < off_s <= abs(shift_s)
    assert "NTP" in found.remedy


async def test_two_that_look_at_the_same_time_both_get_their_answer(settings: Settings) -> None:
    await ensure_topics(settings, [REDRIVES])
    found = await asyncio.gather(broker_clocks(settings), broker_clocks(settings))
    assert [len(clocks) for clocks in found] == [1, 1]


async def test_a_topic_that_does_not_exist_is_not_made_for_it(settings: Settings) -> None:
    topic = settings.topic(REDRIVES.name)
    with pytest.raises(Misconfigured, match=topic):
        await broker_clocks(settings)
    with pytest.raises(Misconfigured, match="no such topic"):
        await partition_counts(settings, [topic])
    (found,) = await clock_of(settings)
    assert (found.level, found.told[:9]) == ("note", "not known")


async def test_a_topic_that_brokers_do_not_stamp_tells_nothing_of_their_clocks(
    settings: Settings,
) -> None:
    admin = admin_client(settings)
    await admin.start()
    try:
        configs = {"message.timestamp.type": "CreateTime"}
        topic = settings.topic(REDRIVES.name)
        await admin.create_topics([NewTopic(topic, settings.partitions, 1, topic_configs=configs)])
    finally:
        await admin.close()
    await ensure_topics(settings, [REDRIVES])
    (found,) = await clock_of(settings, lambda: time.time() + 3600)
    assert (found.level, found.told[:9]) == ("note", "not known")


async def test_what_a_killed_one_left_open_is_ended_and_nothing_is_left_open(
    settings: Settings,
) -> None:
    await ensure_topics(settings, [REDRIVES])
    where = [
        TopicPartition(settings.topic(REDRIVES.name), number)
        for number in range(settings.partitions)
    ]
    killed = transactional_producer(settings, f"{settings.namespace}-doctor")
    consumer = ends_consumer(settings)
    await killed.start()
    await consumer.start()
    try:
        await killed.begin_transaction()
        await killed.send_and_wait(where[0].topic, b"x", partition=1)
        async with raw_log(settings, {where[0].topic}) as raw:
            assert (await raw.stable_ends(where))[where[1]] == 0
            await broker_clocks(settings)

            async def all_ended() -> bool:
                return await raw.stable_ends(where) == await consumer.end_offsets(where)

            await eventually(all_ended)
    finally:
        await consumer.stop()
        await killed.stop()
    assert await read_whole(settings, REDRIVES, DeadLetterRedriven) == []
