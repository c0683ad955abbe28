"""A secret in a record's headers stays on the record that its upstream wrote, and nowhere else."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from millstream.gateway.console.rendering import entry_json, entry_line
from millstream.schemas.base import Address, Reason
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import CommandObeyed
from millstream.schemas.topics import CONTROL, DEAD_LETTERS, OBEYED, REQUESTS, RESULTS, catalogue
from millstream.streams.broker.clients import admin_client, connecting
from millstream.streams.history.dead_letters import find_dead_letter, read_letter
from millstream.streams.history.redrive import Redrive, Redriver
from millstream.streams.history.replay import HistoryQuery, read_history
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import ORIGIN, REDRIVEN, encode
from millstream.streams.wire.headers import DroppedHeaders
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.harness.lanes import read_topic, running_lanes
from tests.harness.views import StartViews
from tests.services.users import acting_as
from tests.support import eventually

SECRET = b"s3cretS3cretS3cret"
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
KEPT = [("ce_id", b"c1"), ("traceparent", TRACE), ("tracestate", b"vendor=1")]
HEADERS = [
    ("authorization", b"Bearer " + SECRET),
    *KEPT,
    ("Authorization", b"Basic " + base64.b64encode(b"ada:" + SECRET)),
    ("cookie", SECRET),
    ("cookie", SECRET * 1000),
    ("baggage", b"token=" + SECRET),
    (f"token-{SECRET.decode()}", b"1"),
]
DROPPED = DroppedHeaders(("authorization", "Authorization", "cookie", "baggage"), 6)

Place = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Raw:
    """A record as it stands on a topic."""

    place: Place
    headers: list[tuple[str, bytes]]
    text: bytes


def traces(secret: bytes) -> list[bytes]:
    """Give the secret, and what its base64 has in common wherever in other bytes it stands."""
    found = [secret, repr(secret)[2:-1].encode()]
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret)
        found.append(encoded[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6])
    return found + [base64.b64encode(one)[:-4] for one in found[2:]]


def leaks(text: bytes) -> bool:
    """Tell whether the secret stands in a text, as it is or in base64."""
    return any(trace in text for trace in traces(SECRET))


class Upstream:
    """Writes records with the secret in their headers, and knows which it wrote."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        self._settings = settings
        self._producer = producer
        self.wrote: set[Place] = set()

    async def publish(
        self, value: Mapping[str, Any] | bytes, partition: int, topic: str = REQUESTS.name
    ) -> Address:
        """Publish a value, JSON or raw, at a partition."""
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        sent = await self._producer.send_and_wait(
            self._settings.topic(topic), raw, b"any", partition, headers=HEADERS
        )
        self.wrote.add((sent.topic, sent.partition, sent.offset))
        return Address(topic=sent.topic, partition=sent.partition, offset=sent.offset)


@asynccontextmanager
async def upstream(settings: Settings) -> AsyncIterator[Upstream]:
    """Connect an upstream."""
    producer = AIOKafkaProducer(**connecting(settings))
    await producer.start()
    try:
        yield Upstream(settings, producer)
    finally:
        await producer.stop()


async def everything(settings: Settings) -> list[Raw]:
    """Read every topic of the deployment raw, Faust's own and what was aborted included."""
    admin = admin_client(settings)
    await admin.start()
    try:
        topics = [name for name in await admin.list_topics() if settings.namespace in name]
    finally:
        await admin.close()
    assert {settings.topic(spec.name) for spec in catalogue(settings.chain_cuts)} < set(topics)
    consumer = AIOKafkaConsumer(*topics, **connecting(settings), auto_offset_reset="earliest")
    await consumer.start()
    try:
        await eventually(lambda: {one.topic for one in consumer.assignment()} == set(topics))
        ends = await consumer.end_offsets(consumer.assignment())
        found: list[Raw] = []
        while any([await consumer.position(one) < end for one, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found += map(raw_of, records)
        return found
    finally:
        await consumer.stop()


def raw_of(record: Any) -> Raw:
    """Give a record with all that it holds as one text."""
    parts = [record.key or b"", record.value or b""]
    for name, value in record.headers:
        parts += [name.encode(), value or b""]
    place = (record.topic, record.partition, record.offset)
    return Raw(place, list(record.headers), b"\n".join(parts))


async def redis_text(settings: Settings) -> bytes:
    """Give all that stands in Redis for the deployment."""
    async with redis.asyncio.Redis.from_url(settings.redis_url) as client:
        parts: list[Any] = []
        async for key in client.scan_iter(f"{settings.namespace}:*"):
            parts.append(key)
            match await client.type(key):
                case b"hash":
                    parts.append(await client.hgetall(key))
                case b"zset":
                    parts.append(await client.zrange(key, 0, -1))
                case _:
                    parts.append(await client.get(key))
    assert len(parts) > 2, "no session is in Redis"
    return repr(parts).encode()


async def put_back(settings: Settings, address: Address, value: bytes | None = None) -> Redrive:
    """Put a dead letter back as an operator does, after a look at it whole."""
    buried = await find_dead_letter(settings, address)
    async with Redriver(acting_as(settings, "operator")) as redriver:
        letter = await read_letter(redriver._reader, buried)
        assert not leaks(letter.model_dump_json().encode())
        assert buried.headers_dropped == DROPPED
        return await redriver.redrive(buried, value)


async def old_dead_letter(settings: Settings, program: Upstream, home: int) -> Address:
    """Write a dead letter as the last release wrote it, with all headers; gives its address."""
    letter = making.dead_letter(
        reason=Reason(code="newer_schema", message="upgrade"),
        source=Address(topic=settings.topic(REQUESTS.name), partition=home, offset=1_000_000),
        value=base64.b64encode(asks("of an old letter", request_id="r-old")).decode(),
        headers=tuple((name, base64.b64encode(value).decode()) for name, value in HEADERS),
    )
    value = encode(letter, source="/test").value
    assert value is not None
    assert leaks(value)
    return await program.publish(value, home, DEAD_LETTERS.name)


def asks(text: str, **more: Any) -> bytes:
    """Give the value of a request of ada's."""
    return json.dumps({"user_id": "ada", "input": f"say: {text}", **more}).encode()


def headers_at(records: Iterable[Raw], address: Address) -> list[tuple[str, bytes]]:
    """Give the headers of the record at an address."""
    place = (address.topic, address.partition, address.offset)
    (found,) = (one.headers for one in records if one.place == place)
    return found


async def test_an_authorization_header_is_found_nowhere_but_where_it_was_sent(
    settings: Settings, start_views: StartViews, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = settings.model_copy(update={"chain_cuts": ("executor",)})
    home = home_partition("ada", settings.partitions)
    other = (home + 1) % settings.partitions
    store = RedisSessionStore(settings)
    with structlog.testing.capture_logs() as lines:
        await start_views(store)
        async with running_lanes(settings), upstream(settings) as program:
            await program.publish(asks("good", request_id="r-good", session_id="s"), home)
            moved = await program.publish(asks("moved"), other)
            cancel = {"user_id": "ada", "command": "cancel", "request_id": "r-never"}
            await program.publish(cancel, other, CONTROL.name)
            await read_topic(settings, OBEYED, CommandObeyed, count=1)
            poison = await program.publish(b"no json", home)
            await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
            mended = await put_back(settings, poison, asks("mended"))
            old = await old_dead_letter(settings, program, home)
            as_it_was = await put_back(settings, old)
            results = await read_topic(settings, RESULTS, AgentResult, count=5)
            await eventually(lambda: store.get("default", "ada", "s"))
            view = await redis_text(settings)
    records = await everything(settings)
    shown = [entry async for entry in read_history(acting_as(settings, "auditor"), HistoryQuery())]
    await store.close()

    assert {one.request_id: one.output for one in results} == {
        "r-good": "good",
        str(moved): "moved",
        str(poison): "mended",
        "r-old": "of an old letter",
        "r-never": None,
    }
    # The search does find it: on each record that the test wrote, and on no other.
    assert {one.place for one in records if leaks(one.text)} == program.wrote
    for name, text in {
        "Redis": view,
        "own logs": repr(lines).encode(),
        "libraries' logs": caplog.text.encode(),
        "history as text": "\n".join(entry_line(one, "") for one in shown).encode(),
        "history as JSON": "\n".join(map(entry_json, shown)).encode(),
    }.items():
        assert not leaks(text), name
    assert "dead letter" in {line["event"] for line in lines}

    # What says what a record is came along.
    written_again = [one for one in records if ORIGIN in dict(one.headers)]
    assert {one.place[:2] for one in written_again} == {
        (settings.topic(REQUESTS.name), home),
        (settings.topic(CONTROL.name), home),
    }
    for one in written_again:
        assert one.headers[:-1] == KEPT
    for done in (mended, as_it_was):
        *kept, (name, _) = headers_at(records, done.redriven_as)
        assert (kept, name) == (KEPT, REDRIVEN)
        assert done.headers_dropped == DROPPED
    trace_id = TRACE.split(b"-")[1]
    traced = [one for one in records if trace_id in dict(one.headers).get("traceparent", b"")]
    assert settings.topic(RESULTS.name) in {one.place[0] for one in traced}
