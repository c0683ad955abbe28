"""A batch that cannot be read is one record that says so; what stands behind it is read."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from aiokafka import TopicPartition, codec
from aiokafka.consumer import fetcher
from aiokafka.record.util import calc_crc32c, encode_varint
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.schemas.dead_letters import BatchTooLarge, BatchUnreadable
from millstream.schemas.errors import Poison
from millstream.schemas.events import AgentRequest
from millstream.streams.broker.aiokafka_patches import bound_fetches
from millstream.streams.broker.fetched.batches import FETCHES_MAX, RECORDS_MAX
from millstream.streams.broker.fetched.unpacking import UNPACKED_BYTES_MAX
from millstream.streams.wire.codec import decode
from millstream.streams.wire.unread import UnreadBatch
from tests.making.batches import (
    CONTROL,
    GZIP,
    LZ4,
    SNAPPY,
    TRANSACTIONAL,
    ZSTD,
    batch,
    batch_of,
    bomb,
    records_in,
)

READ_COMMITTED = 1
WHERE = TopicPartition("requests", 3)


@pytest.fixture(autouse=True)
def _bound() -> None:
    bound_fetches()


def fetch(raw: bytes, position: int = 0, aborted: list[tuple[int, int]] | None = None) -> Any:
    """Give what aiokafka makes of a fetch."""
    records = fetcher.MemoryRecords(raw)
    assert records.has_next()
    return fetcher.PartitionRecords(
        WHERE, records, aborted, position, None, None, True, READ_COMMITTED
    )


def read(raw: bytes, position: int = 0) -> list[Any]:
    """Read a log from a position to its end, with as many fetches as that takes."""
    found: list[Any] = []
    for _ in range(100):
        parts = whole_batches(raw, position)
        if not parts:
            return found
        fetched = fetch(parts, position)
        found += fetched
        position = fetched.next_fetch_offset
    pytest.fail("it is fetched for ever")


def whole_batches(raw: bytes, position: int) -> bytes:
    """Give the log from the batch that holds a position, as its broker knows them."""
    at = 0
    while at < len(raw):
        base, length = struct.unpack_from(">qi", raw, at)
        (delta,) = struct.unpack_from(">i", raw, at + 23)
        if base + max(delta, 0) >= position:
            return raw[at:]
        at += 12 + length
    return b""


def values(records: list[Any]) -> list[bytes]:
    return [b"(unread)" if isinstance(one.value, UnreadBatch) else one.value for one in records]


def poison_of(record: Any) -> Poison:
    with pytest.raises(Poison) as raised:
        decode(record, AgentRequest)
    return raised.value


@pytest.mark.parametrize("packed", [0, GZIP, SNAPPY, LZ4, ZSTD])
def test_an_honest_batch_is_read(packed: int) -> None:
    log = batch(b"a" * 500, b"b" * 500, packed=packed) + batch(b"c", base=2)
    records = read(log)
    assert values(records) == [b"a" * 500, b"b" * 500, b"c"]
    assert [one.offset for one in records] == [0, 1, 2]


@pytest.mark.parametrize("packed", [GZIP, SNAPPY, LZ4, ZSTD])
def test_twenty_times_its_size_is_honest(packed: int) -> None:
    many = [b'{"input": "%07d", "user_id": "ada"}' % one * 10 for one in range(60_000)]
    log = batch(*many, packed=packed) + batch(b"behind", base=60_000)
    records = read(log)
    assert values(records) == [*many, b"behind"]
    assert records[-1].offset == 60_000


@pytest.mark.parametrize("packed", [GZIP, SNAPPY, LZ4, ZSTD])
def test_a_batch_that_unpacks_to_more_than_the_bound_is_told_and_passed(packed: int) -> None:
    log = batch(b"before", b"it") + bomb(packed, size=UNPACKED_BYTES_MAX, base=2)
    records = read(log + batch(b"behind", base=3))
    assert values(records) == [b"before", b"it", b"(unread)", b"behind"]
    poison = poison_of(records[2])
    assert isinstance(poison, BatchTooLarge)
    assert str(poison) == (
        "the batch of offset 2 cannot be read: it unpacks to more than 67108864 bytes"
    )


def wrong_checksum() -> bytes:
    raw = bytearray(batch(b"x", b"y", b"z", base=2))
    raw[-1] ^= 1
    return bytes(raw)


def longer_record() -> bytes:
    body = bytearray(records_in([b"x", b"y", b"z"]))
    body[0] = 0x7E
    return batch_of(bytes(body), base=2, count=3)


BODY = records_in([b"x", b"y", b"z"])
CORRUPT = {
    "wrong checksum": wrong_checksum(),
    "packed by nothing known": batch_of(BODY, base=2, count=3, attributes=7),
    "not what it says to be packed by": batch_of(BODY, base=2, count=3, attributes=ZSTD),
    "packed and cut off": batch_of(
        codec.zstd_encode(BODY * 9)[:-5], base=2, count=3, attributes=ZSTD
    ),
    "2^31 records": batch_of(BODY, base=2, count=2**31 - 1, last_delta=2),
    "fewer records than none": batch_of(BODY, base=2, count=-1, last_delta=2),
    "more records than it has": batch_of(BODY, base=2, count=4, last_delta=2),
    "fewer records than it has": batch_of(BODY, base=2, count=2, last_delta=2),
    "a record's length lies": longer_record(),
    "records outside of it": batch_of(BODY, base=2, count=3, last_delta=1),
    "a format from before 0.11": batch_of(BODY, base=2, count=3, magic=1),
    "no records, but bytes": batch_of(b"\xff" * 40, base=2, count=3),
}


@pytest.mark.parametrize("corrupt", CORRUPT.values(), ids=CORRUPT.keys())
def test_a_corrupt_batch_is_told_and_passed(corrupt: bytes) -> None:
    last = 2 + struct.unpack_from(">i", corrupt, 23)[0]
    log = batch(b"before", b"it") + corrupt + batch(b"behind", base=last + 1)
    records = read(log)
    assert values(records) == [b"before", b"it", b"(unread)", b"behind"]
    told = records[2]
    assert (told.value.first, told.value.last, told.offset) == (2, last, last)
    assert f"the batch of offsets 2 to {last} cannot be read: it" in str(poison_of(told))


@pytest.mark.parametrize("begins", [2, 3, 4])
def test_it_is_told_by_the_same_offset_wherever_reading_begins(begins: int) -> None:
    told = read(CORRUPT["a record's length lies"] + batch(b"behind", base=5), begins)[0]
    assert told.offset == 4
    assert isinstance(poison_of(told), BatchUnreadable)


def test_a_batch_with_a_wrong_checksum_is_fetched_again_before_it_is_told() -> None:
    """A bit may have flipped on the way."""
    log = batch(b"before", b"it") + CORRUPT["wrong checksum"]
    first = fetch(log)
    assert values(list(first)) == [b"before", b"it"]
    for _ in range(FETCHES_MAX - 2):
        again = fetch(whole_batches(log, 2), 2)
        assert list(again) == []
        assert again.next_fetch_offset == 2
    mended = batch(b"x", b"y", b"z", base=2)
    assert values(list(fetch(mended, 2))) == [b"x", b"y", b"z"]


@pytest.mark.parametrize("length", [1, 11, 12, 40, 61, 70])
def test_what_is_cut_off_at_the_beginning_of_a_fetch_is_told_and_passed(length: int) -> None:
    position = 7
    for _ in range(FETCHES_MAX):
        fetched = fetch(batch(b"x", base=7)[:length], position)
        records = list(fetched)
        position = fetched.next_fetch_offset
    assert values(records) == [b"(unread)"]
    assert position == 8
    assert "it is cut off" in str(poison_of(records[0]))


def test_what_is_cut_off_at_the_end_of_a_fetch_is_fetched_again() -> None:
    fetched = fetch(batch(b"a") + batch(b"b", base=1)[:50])
    assert values(list(fetched)) == [b"a"]
    assert fetched.next_fetch_offset == 1


def test_a_batch_of_more_records_than_anyone_sends_is_told_unpacked_or_not() -> None:
    body = bytes(codec.zstd_encode(bytes((12, 0, 0, 0, 1, 1, 0)) * (RECORDS_MAX + 1)))
    told = read(batch_of(body, count=RECORDS_MAX + 1, attributes=ZSTD))
    assert values(told) == [b"(unread)"]
    assert isinstance(poison_of(told[0]), BatchTooLarge)


def test_a_record_that_holds_more_than_a_megabyte_is_read_with_its_neighbours() -> None:
    large = bytes(1_400_000)
    assert values(read(batch(b"a", large, b"b"), 1)) == [large, b"b"]


def marker(kind: int, base: int, producer_id: int) -> bytes:
    """Give the marker that ends a transaction: 0 aborts, 1 commits, others are none."""
    body = bytes((16 * 2, 0, 0, 0, 8, 0, 0, 0, kind, 12, 0, 0, 0, 0, 0, 0, 0))
    attributes = CONTROL | TRANSACTIONAL
    return batch_of(body, base=base, attributes=attributes, producer_id=producer_id)


def of_transaction(value: bytes, base: int, producer_id: int) -> bytes:
    body = records_in([value])
    return batch_of(body, base=base, attributes=TRANSACTIONAL, producer_id=producer_id)


@pytest.mark.parametrize("kind", [0, 77])
def test_aborted_records_are_passed_over_up_to_their_marker_even_if_that_cannot_be_read(
    kind: int,
) -> None:
    log = (
        of_transaction(b"aborted", 0, 9)
        + batch(b"plain", base=1)
        + marker(kind, 2, 9)
        + of_transaction(b"committed", 3, 9)
        + marker(1, 4, 9)
    )
    fetched = fetch(log, aborted=[(9, 0)])
    assert values(list(fetched)) == [b"plain", b"committed"]
    assert fetched.next_fetch_offset == 5


def test_an_aborted_bomb_is_passed_over_unread() -> None:
    body = bytes(codec.zstd_encode(records_in([bytes(UNPACKED_BYTES_MAX)])))
    attributes = TRANSACTIONAL | ZSTD
    log = batch_of(body, attributes=attributes, producer_id=9) + batch(b"behind", base=1)
    assert values(list(fetch(log, aborted=[(9, 0)]))) == [b"behind"]


def test_header_names_that_are_no_text_are_read_whether_packed_or_not() -> None:
    body = records_in([b"a"], [("name", b"v")]).replace(b"name", b"n\xffm\xfe")
    for packed, sent in ((0, body), (ZSTD, bytes(codec.zstd_encode(body)))):
        (record,) = read(batch_of(sent, attributes=packed))
        assert record.headers == (("n\\xffm\\xfe", b"v"),)


@pytest.mark.parametrize("length", [2**14, 2**31, 2**40, 2**62])
def test_a_length_that_lies_beside_a_name_that_is_no_text_ends_no_worker(length: int) -> None:
    """The reads of aiokafka's parser in Python are not checked: the process was gone."""
    lie = bytearray()
    encode_varint(length, lie.append)
    no_text, lying, third = b"\x04n\xff\x00", b"\x08next" + bytes(lie), b"\x02a\x00"
    record = bytes((0, 0, 0, 1, 1, 6)) + no_text + lying + third
    (told,) = read(batch_of(bytes((len(record) * 2,)) + record))
    assert isinstance(poison_of(told), BatchUnreadable)


@given(
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=5),
    packed=st.sampled_from([0, GZIP, SNAPPY, LZ4, ZSTD]),
    has_right_checksum=st.booleans(),
    position=st.integers(5, 8),
)
@settings(max_examples=400, deadline=None)
def test_whatever_is_wrong_with_a_batch_reading_goes_on(
    flips: list[tuple[int, int]], packed: int, *, has_right_checksum: bool, position: int
) -> None:
    raw = bytearray(batch(*(b"value %d" % one * 9 for one in range(4)), base=5, packed=packed))
    for at, bits in flips:
        raw[12 + at % (len(raw) - 12)] ^= bits
    if has_right_checksum:
        struct.pack_into(">I", raw, 17, calc_crc32c(bytes(raw[21:])))
    before = position
    for _ in range(FETCHES_MAX):
        fetched = fetch(bytes(raw), position)
        for record in fetched:
            assert record.offset >= position
        position = fetched.next_fetch_offset
        if position > before:
            return
    pytest.fail("it stands still")
