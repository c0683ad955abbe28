"""A batch that unpacks to more than is read is buried by its offsets, and nothing waits for it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from millstream.gateway.console.rendering import entry_line
from millstream.schemas.dead_letters import BatchLost, DeadLetter
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import CONTROL, DEAD_LETTERS, DECISIONS, REQUESTS, RESULTS, TopicSpec
from millstream.streams.broker.clients import connecting
from millstream.streams.broker.fetched.unpacking import UNPACKED_BYTES_MAX
from millstream.streams.bus.api import Delivery, Unreadable
from millstream.streams.history.dead_letters import find_dead_letter
from millstream.streams.history.redrive import Redriver
from millstream.streams.history.replay import HistoryQuery, read_history
from millstream.streams.lane.input.careful_reading import CAREFUL_FROM, DEATHS_MAX
from millstream.streams.lane.lanes import Lanes
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.records import InputRecord
from millstream.streams.wire.sizes import HEADERS_MAX
from tests.contracts.log_world import started
from tests.harness.lane_common import chain_stages
from tests.harness.lanes import lane_services, read_topic, read_whole, running_lanes, upstream
from tests.services.users import acting_as

pytestmark = pytest.mark.promise("P7")

ASKED = {"user_id": "ada", "input": "say: served"}


async def publish_bomb(settings: Settings, spec: TopicSpec, codec: str) -> int:
    """Publish three records in a batch that unpacks to too much; gives the last one's offset."""
    producer = AIOKafkaProducer(
        **connecting(settings),
        compression_type=codec,
        max_batch_size=1 << 30,
        max_request_size=1 << 30,
    )
    async with started(producer):
        bomb = producer.create_batch()
        for value in (json.dumps(ASKED).encode(), bytes(UNPACKED_BYTES_MAX), b"{}"):
            assert bomb.append(key=b"ada", value=value, timestamp=None)
        home = home_partition("ada", settings.partitions)
        sent = await (await producer.send_batch(bomb, settings.topic(spec.name), partition=home))
        return int(sent.offset) + 2


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
async def test_a_bomb_is_buried_by_its_offsets_and_its_neighbours_are_served(
    settings: Settings, codec: str
) -> None:
    home = home_partition("ada", settings.partitions)
    async with running_lanes(settings), upstream(settings) as program:
        await program.publish(ASKED, partition=home)
        bad = await publish_bomb(settings, REQUESTS, codec)
        await program.publish(ASKED, partition=home)
        results = await read_topic(settings, RESULTS, AgentResult, count=2)
    assert [one.output for one in results] == ["served"] * 2
    (letter,) = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
    assert letter.reason.code == "batch_too_large"
    assert letter.first_offset == bad - 2
    where = (letter.source.topic, letter.source.partition, letter.source.offset)
    assert where == (settings.topic(REQUESTS.name), home, bad)

    # Whoever has the partition next does not read it again.
    async with running_lanes(settings), upstream(settings) as program:
        await program.publish(ASKED, partition=home)
        await read_topic(settings, RESULTS, AgentResult, count=3)
    assert len(await read_whole(settings, DEAD_LETTERS, DeadLetter)) == 1

    # History tells of it at its address, and of what stands behind it.
    query = HistoryQuery(topics=(REQUESTS,), partition=home)
    entries = [one async for one in read_history(acting_as(settings, "auditor"), query)]
    unread = [one for one in entries if isinstance(one, Unreadable)]
    assert len(entries) == 4
    assert [one.address.offset for one in unread] == [bad]
    assert f"offsets {bad - 2} to {bad}" in entry_line(unread[0], settings.namespace)

    # Also where what is asked for lies within it.
    within = HistoryQuery(
        topics=(REQUESTS,), partition=home, offset_from=bad - 2, offset_until=bad - 1
    )
    assert [one.address.offset async for one in read_history(settings, within)] == [bad]

    # No value can stand for all of its records; each of their addresses finds the letter.
    async with Redriver(acting_as(settings, "operator")) as redriver:
        for offset in (bad - 2, bad):
            place = letter.source.model_copy(update={"offset": offset})
            buried = await find_dead_letter(settings, place)
            assert (buried.source, buried.records) == (letter.source, 3)
            for value in (None, json.dumps(ASKED).encode()):
                with pytest.raises(BatchLost, match=f"3 records .offsets {bad - 2} to {bad}"):
                    await redriver.redrive(buried, value)


async def test_bombs_among_commands_and_on_topics_of_lanes_stop_no_lane(
    settings: Settings,
) -> None:
    async with running_lanes(settings):
        bad = await publish_bomb(settings, CONTROL, "zstd")
        await publish_bomb(settings, DECISIONS, "zstd")
        await publish_bomb(settings, RESULTS, "zstd")
        (letter,) = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
    assert (letter.reason.code, letter.source.offset) == ("batch_too_large", bad)
    async with running_lanes(settings), upstream(settings) as program:  # opens over them
        await program.publish(ASKED)
        query = HistoryQuery(topics=(RESULTS,))
        async with asyncio.timeout(30):
            while (
                len(
                    entries := [
                        one async for one in read_history(acting_as(settings, "auditor"), query)
                    ]
                )
                < 2
            ):
                pass
    unread, served = entries
    assert isinstance(unread, Unreadable)
    assert isinstance(served, Delivery)
    assert isinstance(served.event, AgentResult)
    assert served.event.output == "served"


async def test_of_a_batch_a_record_of_too_many_headers_alone_is_buried(settings: Settings) -> None:
    home = home_partition("ada", settings.partitions)
    producer = AIOKafkaProducer(
        **connecting(settings), compression_type="zstd", max_batch_size=1 << 30
    )
    async with running_lanes(settings), started(producer):
        mixed = producer.create_batch()
        for count in (0, 400_000, HEADERS_MAX):
            value, headers = json.dumps(ASKED).encode(), [("", b"")] * count
            assert mixed.append(key=b"ada", value=value, timestamp=None, headers=headers)
        topic = settings.topic(REQUESTS.name)
        sent = await (await producer.send_batch(mixed, topic, partition=home))
        results = await read_topic(settings, RESULTS, AgentResult, count=2)
        (letter,) = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
    assert [one.output for one in results] == ["served"] * 2
    bad = sent.offset + 1
    assert (letter.reason.code, letter.first_offset) == ("batch_too_large", bad)
    assert (letter.source.offset, letter.value) == (bad, None)


class Killed(BaseException):
    """Nobody catches this: the lane is gone, as with its process."""


async def test_a_record_that_ends_whoever_reads_it_is_buried_unread(settings: Settings) -> None:
    home, killed = home_partition("ada", settings.partitions), list[int]()
    (stage,) = chain_stages(settings, None)

    def read(record: InputRecord) -> Any:
        if record.value == b'"kill"':
            killed.append(record.offset)
            raise Killed
        return stage.read(record)

    async with lane_services(settings) as services:
        async with upstream(settings) as program:
            sent = await program.publish(b'"kill"', partition=home)
            await program.publish(ASKED, partition=home)
        lanes = Lanes(acting_as(settings, "worker"), services, replace(stage, read=read))
        await lanes.start()
        try:
            (letter,) = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
            (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
        finally:
            await lanes.stop(settings.shutdown_grace_s)
    assert killed == [sent.offset] * (CAREFUL_FROM - 1 + DEATHS_MAX)
    assert (letter.reason.code, letter.source.offset) == ("unserviceable", sent.offset)
    assert result.output == "served"
