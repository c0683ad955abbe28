"""Records of any size on real Kafka: their lanes live on, and what stands beside is served."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult, AgentToken
from millstream.schemas.topics import (
    CONTROL,
    DEAD_LETTERS,
    REQUESTS,
    RESULTS,
    RUN_MIGRATIONS,
    SESSION_COMMANDS,
    TOKENS,
    TopicSpec,
    catalogue,
)
from millstream.streams.broker.clients import admin_client, connecting
from millstream.streams.broker.topic_admin import ensure_topics, topic_drift
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition, name_at
from tests.contracts.log_world import started
from tests.harness.lanes import read_topic, read_whole, running_lanes

pytestmark = pytest.mark.promise("P7")

LARGE = 1_048_000
ASKED = {"user_id": "ada", "request_id": "r1", "input": "say: served"}
COMMANDS: list[tuple[TopicSpec, dict[str, Any]]] = [
    (REQUESTS, ASKED),
    (CONTROL, {"user_id": "ada", "command": "cancel", "request_id": "r1"}),
    (
        SESSION_COMMANDS,
        {"user_id": "ada", "command_id": "c1", "operation": "create", "session_id": "s1"},
    ),
    (RUN_MIGRATIONS, {"user_id": "ada", "request_id": "r1", "to_version": "2"}),
]


def client(settings: Settings, codec: str | None = None) -> AIOKafkaProducer:
    """Make an upstream's producer that is set to send whatever its broker takes."""
    return AIOKafkaProducer(
        **connecting(settings), max_request_size=1 << 26, compression_type=codec
    )


async def neighbour(settings: Settings, producer: AIOKafkaProducer, number: int, at: int) -> None:
    name = name_at(at, settings.partitions)
    value = {"user_id": name, "request_id": f"n{number}", "input": "say: beside"}
    await producer.send_and_wait(
        settings.topic(REQUESTS.name), json.dumps(value).encode(), name.encode(), at
    )


@asynccontextmanager
async def opened(admin: AIOKafkaAdminClient) -> AsyncIterator[AIOKafkaAdminClient]:
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


def lanes_lost(lanes: Any) -> int:
    return sum(one.figures().lost for one in lanes)


@pytest.mark.slow
async def test_records_as_large_as_the_broker_takes_are_buried_beside_ones_that_are_served(
    settings: Settings,
) -> None:
    home = home_partition("ada", settings.partitions)
    places = [home, (home + 1) % settings.partitions]
    sent = []
    async with running_lanes(settings) as lanes, started(client(settings)) as producer:
        for number, (spec, value) in enumerate(COMMANDS):
            for at in places:
                pad = json.dumps({**value, "pad": "x" * (LARGE - 300)}).encode()
                topic = settings.topic(spec.name)
                sent.append(await producer.send_and_wait(topic, pad, b"ada", at))
                header = ("ce_large", b"x" * (LARGE - 300))
                small = json.dumps(value).encode()
                sent.append(
                    await producer.send_and_wait(topic, small, b"ada", at, headers=[header])
                )
                await neighbour(settings, producer, number, at)
        letters = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=len(sent))
        results = await read_topic(settings, RESULTS, AgentResult, count=2 * len(COMMANDS))
        assert lanes_lost(lanes) == 0
    assert {one.reason.code for one in letters} == {"record_too_large"}
    assert {(one.source.topic, one.source.partition, one.source.offset) for one in letters} == {
        (one.topic, one.partition, one.offset) for one in sent
    }
    assert all(one.value is not None for one in letters)
    assert {one.status for one in results} == {"completed"}


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_a_record_that_was_small_only_compressed_is_buried_without_its_bytes(
    settings: Settings, codec: str
) -> None:
    home = home_partition("ada", settings.partitions)
    async with running_lanes(settings) as lanes, started(client(settings, codec)) as producer:
        pad = json.dumps({**COMMANDS[1][1], "pad": "x" * 3_000_000}).encode()
        control, requests = settings.topic(CONTROL.name), settings.topic(REQUESTS.name)
        await producer.send_and_wait(control, pad, b"ada", home)
        header = ("ce_large", b"x" * 1_600_000)
        await producer.send_and_wait(requests, b"no json", b"ada", home, headers=[header])
        await neighbour(settings, producer, 1, home)
        letters = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=2)
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
        assert lanes_lost(lanes) == 0
    assert [one.value for one in letters] == [None, None]
    assert all(str(one.source) in one.reason.message for one in letters)
    assert result.output == "beside"


@pytest.mark.slow
@pytest.mark.promise("P3")
async def test_a_topic_with_too_low_a_limit_costs_the_run_whose_record_it_refuses_and_no_other(
    settings: Settings,
) -> None:
    """Moved records, dead letters and tokens: what is refused is buried, or fails its run."""
    limits = {"requests": 20_000, "dead-letters": 20_000, "tokens": 20_000}
    async with opened(admin_client(settings)) as admin:
        await admin.create_topics(
            [
                NewTopic(
                    settings.topic(name),
                    settings.partitions,
                    1,
                    topic_configs={"max.message.bytes": str(limit)},
                )
                for name, limit in limits.items()
            ]
        )
    await ensure_topics(settings, catalogue())
    drifts = await topic_drift(settings, catalogue())
    named = {one.topic for one in drifts if one.setting == "max.message.bytes"}
    assert named == {settings.topic(name) for name in limits}
    home = home_partition("ada", settings.partitions)
    elsewhere = (home + 1) % settings.partitions
    async with running_lanes(settings) as lanes, started(client(settings)) as producer:
        requests = settings.topic(REQUESTS.name)
        room = 19_900 - len(json.dumps({**ASKED, "pad": ""}))
        moved = json.dumps({**ASKED, "pad": "x" * room}).encode()
        await producer.send_and_wait(requests, moved, None, elsewhere)
        behind = json.dumps({**ASKED, "request_id": "r2"}).encode()
        await producer.send_and_wait(requests, behind, None, elsewhere)
        long = "say:" + "{input}" * 80  # 80 times what it is: 45 kB, in one word
        asked = json.dumps({**ASKED, "request_id": "r3", "input": long}).encode()
        await producer.send_and_wait(requests, asked, b"ada", home)
        for number in range(3):
            await neighbour(settings, producer, number, home)
        results = await read_topic(settings, RESULTS, AgentResult, count=5)
        (letter,) = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
        assert lanes_lost(lanes) == 0
    told = {one.request_id: one for one in results}
    assert (letter.reason.code, letter.value) == ("record_too_large", None)
    assert told["r2"].output == "served"
    assert told["r3"].status == "failed"
    assert {told[f"n{number}"].output for number in range(3)} == {"beside"}
    tokens = await read_whole(settings, TOKENS, AgentToken)
    for one in told.values():
        mine = [token for token in tokens if token.request_id == one.request_id]
        if one.status == "completed":
            assert "".join(token.text for token in mine) == one.output
