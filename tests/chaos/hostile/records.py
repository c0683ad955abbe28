"""Records that are as large as brokers take, or larger than they look; each kind has a name.

None may cost an honest request of its partition anything, and none may vanish: each has to end as
one dead letter that names its address, or, where it is a request, as one result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from millstream.schemas.topics import CONTROL, REQUESTS, TopicSpec
from millstream.streams.broker.clients import connecting
from millstream.streams.broker.raw_broker import raw_log
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition

__all__ = ["KINDS", "Hostile", "Kind", "Sent", "send"]

UNPACKED_BYTES = 300_000_000
"""What the batch of `batch` unpacks to; packed it has some 10 kB."""

_BROKER_BYTES_MAX = 1_048_588
"""Kafka's `message.max.bytes`, by which a batch is refused."""

_BATCH_BYTES = 61 + 25
"""What a batch of one record takes besides its key, value and headers, at most."""

_HEADER_BYTES = 900_000
_GROWS = "\N{DEVANAGARI LETTER QA}"
"""One character whose NFC form has two: it is composed in a way that Unicode excludes."""
_NAME_CHARS = 200
_ZSTD = 4
_ALL_IN_SYNC = -1
_TIMEOUT_MS = 30_000


@dataclass(frozen=True, slots=True)
class Hostile:
    """A record: what stands on which topic, for which user; `is_foreign`: not at its home."""

    spec: TopicSpec
    user_id: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    is_foreign: bool = False
    is_packed: bool = False

    def partition(self, partitions: int) -> int:
        """Say where it is sent to."""
        return (home_partition(self.user_id, partitions) + self.is_foreign) % partitions


@dataclass(frozen=True, slots=True)
class Sent:
    """A hostile record that stands on its topic, and the request that it may have been taken for.

    No address is known of one that was asked for as any other, whose answer is what is hostile.
    """

    kind: str
    request_id: str
    topic: str | None = None
    partition: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind: what it is, and its record for a user and an id."""

    about: str
    make: Callable[[str, str], Hostile]


def _command(user_id: str, request_id: str) -> Hostile:
    asked = {"command": "cancel", "user_id": user_id, "request_id": request_id}
    return Hostile(CONTROL, user_id, _filled(asked, "note", user_id, 0), is_foreign=True)


def _headers(user_id: str, request_id: str) -> Hostile:
    headers = (("ce_note", b"h" * _HEADER_BYTES),)
    asked = {"user_id": user_id, "request_id": request_id}
    value = _filled(asked, "input", user_id, _HEADER_BYTES + len("ce_note"))
    return Hostile(REQUESTS, user_id, value, headers, is_foreign=True)


def _name(_: str, request_id: str) -> Hostile:
    name = _GROWS * _NAME_CHARS
    asked = {"user_id": name, "request_id": request_id, "input": "hello"}
    return Hostile(REQUESTS, name, json.dumps(asked).encode())


def _batch(user_id: str, _: str) -> Hostile:
    return Hostile(REQUESTS, user_id, bytes(UNPACKED_BYTES), is_packed=True)


def _filled(asked: Mapping[str, str], field: str, key: str, besides: int) -> bytes:
    """Give a value whose field is filled until the record is as large as a broker takes."""
    bare = len(json.dumps({**asked, field: ""}))
    room = _BROKER_BYTES_MAX - _BATCH_BYTES - len(key) - besides - bare
    return json.dumps({**asked, field: "x" * room}).encode()


KINDS: Mapping[str, Kind] = {
    "command": Kind("a command as large as brokers take, at a foreign partition", _command),
    "headers": Kind("900 kB of headers at a foreign partition, with room for no other", _headers),
    "name": Kind("a user of 200 characters that are 400 when normalised", _name),
    "batch": Kind("a zstd batch that unpacks to 300 MB", _batch),
}


async def send(settings: Settings, kind: str, user_id: str, request_id: str) -> Sent:
    """Write a record of a kind; its partition is that of the user, or the next one."""
    one = KINDS[kind].make(user_id, request_id)
    where = TopicPartition(settings.topic(one.spec.name), one.partition(settings.partitions))
    write = _write_packed if one.is_packed else _write
    return Sent(kind, request_id, *where, await write(settings, where, one))


async def _write(settings: Settings, where: TopicPartition, one: Hostile) -> int:
    producer = AIOKafkaProducer(
        **connecting(settings), max_request_size=2 * _BROKER_BYTES_MAX, linger_ms=0
    )
    await producer.start()
    try:
        sent = await producer.send_and_wait(
            where.topic,
            one.value,
            one.user_id.encode(),
            partition=where.partition,
            headers=list(one.headers),
        )
    finally:
        await producer.stop()
    return int(sent.offset)


async def _write_packed(settings: Settings, where: TopicPartition, one: Hostile) -> int:
    """Write a batch by hand: a producer would refuse the record by what it unpacks to."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=_ZSTD,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=2 * UNPACKED_BYTES,
    )
    builder.append(0, timestamp=None, key=one.user_id.encode(), value=one.value, headers=[])
    batch = bytes(builder.build())
    request = ProduceRequest(
        None, _ALL_IN_SYNC, _TIMEOUT_MS, [(where.topic, [(where.partition, batch)])]
    )
    async with raw_log(settings, [where.topic]) as raw:
        answer = (await raw.ask(raw.leader(where), request)).topics[0][1][0]
    assert answer[1] == 0, f"a broker refused the batch of {len(batch)} bytes: error {answer[1]}"
    return int(answer[2])
