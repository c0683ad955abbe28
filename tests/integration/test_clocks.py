"""The clocks of brokers, as records that nobody sees tell of them."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka import TopicPartition

from millstream.gateway.checks.clock import clock_of
from millstream.schemas.dead_letters import DeadLetterRedriven
from millstream.schemas.errors import Misconfigured
from millstream.schemas.topics import REDRIVES
from millstream.streams.broker.clients import ends_consumer
from millstream.streams.broker.clocks import broker_clocks
from millstream.streams.broker.raw_broker import raw_log
from millstream.streams.broker.topic_admin import ensure_topics, partition_counts
from millstream.streams.settings import Settings
from tests.harness.lanes import read_whole

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


async def test_no_transaction_is_left_open(settings: Settings) -> None:
    await ensure_topics(settings, [REDRIVES])
    await broker_clocks(settings)
    where = [
        TopicPartition(settings.topic(REDRIVES.name), number)
        for number in range(settings.partitions)
    ]
    async with raw_log(settings, {where[0].topic}) as raw:
        stable = await raw.stable_ends(where)
    consumer = ends_consumer(settings)
    await consumer.start()
    try:
        assert await consumer.end_offsets(where) == stable
    finally:
        await consumer.stop()
