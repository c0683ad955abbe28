"""What a record takes to be parsed is bounded, by its headers as by its bytes.

apache/iggy#4229, apache/kafka#23158: a count of headers is believed, and memory taken for it.
apache/kafka#22905, tulios/kafkajs#1795: some kB that unpack to what no reader can hold.
"""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.util import encode_varint

from millstream.schemas.dead_letters import BatchTooLarge, BatchUnreadable
from millstream.schemas.errors import Poison
from millstream.schemas.events import AgentRequest
from millstream.streams.broker.aiokafka_patches import bound_fetches
from millstream.streams.broker.fetched.parts import PART_BYTES, CannotPart, parts_of
from millstream.streams.wire.codec import decode
from millstream.streams.wire.sizes import HEADERS_READ_MAX
from millstream.streams.wire.unread import UnreadBatch
from tests.making.batches import LZ4, PACK, ZSTD, batch, batch_of

pytestmark = pytest.mark.promise("P7")

MIB = 1024 * 1024
NO_NAME_NO_VALUE = b"\x00\x01"


def varint(number: int) -> bytes:
    written = bytearray()
    encode_varint(number, written.append)
    return bytes(written)


def record_of(
    delta: int, *, headers: int = 0, value: bytes = b"{}", told: int | None = None
) -> bytes:
    """Give a record with that many empty headers; `told` is the length it says that it has."""
    body = b"\x00" + varint(0) + varint(delta) + varint(-1) + varint(len(value)) + value
    body += varint(headers) + NO_NAME_NO_VALUE * headers
    return varint(len(body) if told is None else told) + body


def read(*records: bytes, packed: int = 0) -> list[Any]:
    """Read a batch of these records, as a consumer does."""
    body = b"".join(records)
    if packed:
        body = bytes(PACK[packed](body))
    log = batch_of(body, count=len(records), attributes=packed)
    log += batch(b"behind", base=len(records))
    bound_fetches()
    where, raw = TopicPartition("requests", 0), fetcher.MemoryRecords(log)
    return list(fetcher.PartitionRecords(where, raw, None, 0, None, None, True, 1))


def told_of(records: list[Any]) -> list[bytes | str]:
    """Give values, and of what cannot be read the poison's code."""
    return [_told(one) if isinstance(one.value, UnreadBatch) else one.value for one in records]


def _told(record: Any) -> str:
    with pytest.raises(Poison) as raised:
        decode(record, AgentRequest)
    return str(raised.value.code)


@contextmanager
def at_most(mebibytes: int) -> Iterator[None]:
    """Require that no more memory is taken."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [0, ZSTD, LZ4])
@pytest.mark.parametrize("large", [0, 3 * MIB], ids=["small", "large"])
def test_of_a_batch_that_record_alone_is_told_that_has_a_header_too_many(
    packed: int, large: int
) -> None:
    records = read(
        record_of(0, value=bytes(large)),
        record_of(1, headers=HEADERS_READ_MAX),
        record_of(2, headers=HEADERS_READ_MAX + 1),
        record_of(3, value=b"beside"),
        packed=packed,
    )
    told = told_of(records)
    assert told == [bytes(large), b"{}", BatchTooLarge.code, b"beside", b"behind"]
    assert [one.offset for one in records] == [0, 1, 2, 3, 4]
    assert len(records[1].headers) == HEADERS_READ_MAX
    assert (records[2].value.first, records[2].value.last) == (2, 2)


@pytest.mark.parametrize("headers", [PART_BYTES, 16_000_000])
def test_no_memory_is_taken_for_more_headers_than_are_read(headers: int) -> None:
    bomb = record_of(1, headers=headers)
    with at_most(4 * len(bomb) // MIB + 8):
        records = read(record_of(0), bomb, packed=ZSTD)
    assert told_of(records) == [BatchTooLarge.code, b"behind"]
    assert (records[0].value.first, records[0].value.last) == (0, 1)


def test_headers_that_a_record_says_it_has_not_are_read_no_further_than_its_part() -> None:
    """It is short by its own word, so its headers are noticed as they are read, or never."""
    liar = record_of(0, headers=16_000_000, told=40)
    with at_most(4 * len(liar) // MIB + 60):
        records = read(liar, packed=ZSTD)
    assert told_of(records) == [BatchUnreadable.code, b"behind"]


@pytest.mark.parametrize("told", [0, -1, -(1 << 30), 1 << 30])
def test_of_a_large_batch_a_length_that_lies_is_told(told: int) -> None:
    records = read(record_of(0, value=bytes(2 * MIB)), record_of(1, told=told))
    assert told_of(records) == [BatchUnreadable.code, b"behind"]


def test_parts_hold_all_records_in_order_whatever_their_lengths() -> None:
    lengths = [1, PART_BYTES, 5, PART_BYTES + 1, 1, 1, PART_BYTES // 2, PART_BYTES // 2, 7]
    records = [record_of(0, value=bytes(length)) for length in lengths]
    whole = b"".join(records)
    parts = [(bytes(part), count) for part, count in parts_of(memoryview(whole), len(records))]
    assert b"".join(part for part, _ in parts) == whole
    assert sum(count for _, count in parts) == len(records)
    assert all(count == 1 or len(part) <= PART_BYTES for part, count in parts)


def test_bytes_behind_the_last_record_are_no_part() -> None:
    whole = record_of(0) + bytes(PART_BYTES + 1)
    with pytest.raises(CannotPart, match="stand behind its last record"):
        list(parts_of(memoryview(whole), 1))


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_length_that_is_cut_off_is_told(cut: int) -> None:
    whole = struct.pack(">4B", *[0xFF] * 4)[:cut]
    with pytest.raises(CannotPart, match="does not say how long"):
        list(parts_of(memoryview(whole), 1))
