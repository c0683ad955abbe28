"""Records as clients write them that are not ours: compressed, or with names that are no text."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess

import pytest
from confluent_kafka import Producer

from benchmarks.librdkafka import librdkafka
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult, AgentToken
from millstream.schemas.topics import DEAD_LETTERS, REQUESTS, RESULTS, TOKENS
from millstream.streams.settings import Settings
from tests.harness.lanes import read_topic, read_whole, running_lanes, upstream
from tests.services.users import acting_as


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_a_compressed_request_from_librdkafka_is_answered(
    settings: Settings, codec: str
) -> None:
    async with running_lanes(settings):
        own = librdkafka(acting_as(settings, "upstream"))
        producer = Producer({**own, "compression.type": codec})
        value = json.dumps({"user_id": "ada", "input": "x" * 2000})
        producer.produce(settings.topic(REQUESTS.name), value.encode(), key=b"any")
        assert await asyncio.to_thread(producer.flush, 30) == 0
        (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
    assert result.output == "x" * 2000


def publish_with_header(settings: Settings, value: str, name: bytes) -> None:
    """Publish with kcat, which takes any bytes for a header's name."""
    file = settings.data_dir / "kcat.properties"
    given = librdkafka(acting_as(settings, "upstream")).items()
    file.write_text("".join(f"{key}={value}\n" for key, value in given), "utf-8")
    command = [b"kcat", b"-F", bytes(file), b"-P", b"-k", b"ada"]
    topic = settings.topic(REQUESTS.name).encode()
    subprocess.run(
        [*command, b"-t", topic, b"-H", name + b"=1"],
        input=value.encode(),
        check=True,
        timeout=30,
    )


@pytest.mark.plaintext(
    reason="librdkafka before 2.6.1, as kcat has it, cannot log in to Kafka 4 by SCRAM"
)
@pytest.mark.skipif(shutil.which("kcat") is None, reason="no kcat: apt-get install kcat")
async def test_a_header_whose_name_is_no_text_stops_nobody(settings: Settings) -> None:
    name = b"\xff\xfe\x80"
    async with running_lanes(settings), upstream(settings) as program:
        request = '{"user_id": "ada", "request_id": "r1", "input": "x"}'
        await asyncio.to_thread(publish_with_header, settings, request, name)
        await asyncio.to_thread(publish_with_header, settings, "no json", name)
        await program.publish({"user_id": "ada", "request_id": "r2", "input": "x"})
        results = await read_topic(settings, RESULTS, AgentResult, count=2)
        (letter,) = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
    assert {result.request_id for result in results} == {"r1", "r2"}
    assert (letter.headers, letter.headers_dropped, letter.headers_dropped_count) == ((), (), 1)
    assert await read_whole(settings, TOKENS, AgentToken)
