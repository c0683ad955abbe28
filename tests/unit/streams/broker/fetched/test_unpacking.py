"""What a batch holds is unpacked up to the bound, and not a byte beyond, for every codec."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from contextlib import suppress

import pytest
from aiokafka import codec
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.streams.broker.fetched.unpacking import (
    UNPACKED_BYTES_MAX,
    CannotUnpack,
    unpacked,
)
from tests.making.batches import GZIP, LZ4, PACK, SNAPPY, ZSTD

CODECS = pytest.mark.parametrize("kind", [GZIP, SNAPPY, LZ4, ZSTD])


@CODECS
@given(data=st.binary(max_size=4096), times=st.sampled_from([1, 300]))
@settings(max_examples=30, deadline=None)
def test_what_was_packed_is_unpacked(kind: int, data: bytes, times: int) -> None:
    assert unpacked(kind, PACK[kind](data * times)) == data * times


@CODECS
def test_what_holds_as_much_as_the_bound_is_unpacked(kind: int) -> None:
    # librdkafka's buffer could grow past its bound without ever having tried it (its issue 5260).
    assert len(unpacked(kind, PACK[kind](bytes(UNPACKED_BYTES_MAX)))) == UNPACKED_BYTES_MAX


@CODECS
def test_what_holds_a_byte_more_is_refused(kind: int) -> None:
    data = PACK[kind](bytes(UNPACKED_BYTES_MAX + 1))
    with pytest.raises(CannotUnpack, match="unpacks to more than 67108864 bytes") as refused:
        unpacked(kind, data)
    assert refused.value.is_too_large


def many_frames(kind: int) -> bytes:
    """Give what unpacks to 1 GiB, in frames of 16 MiB each."""
    one = bytes(16 * 1024 * 1024)
    if kind == SNAPPY:
        head, block = codec.snappy_encode(b"")[:16], codec.cramjam.snappy.compress_raw(one)
        return head + 64 * (struct.pack(">i", len(block)) + bytes(block))
    return bytes(PACK[kind](one)) * 64


@CODECS
def test_no_memory_is_taken_for_what_is_beyond_the_bound(kind: int) -> None:
    data = many_frames(kind)
    tracemalloc.start()
    try:
        with pytest.raises(CannotUnpack) as refused:
            unpacked(kind, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.is_too_large
    assert peak < 3 * UNPACKED_BYTES_MAX


@pytest.mark.parametrize("kind", [GZIP, LZ4, ZSTD])
def test_frames_one_after_the_other_are_one(kind: int) -> None:
    assert unpacked(kind, bytes(PACK[kind](b"a" * 100)) + bytes(PACK[kind](b"b"))) == (
        b"a" * 100 + b"b"
    )


def test_snappy_without_its_frame_is_unpacked() -> None:
    assert unpacked(SNAPPY, bytes(codec.cramjam.snappy.compress_raw(b"a" * 100))) == b"a" * 100


@pytest.mark.parametrize("length", [0, -1, -5, 2**31 - 1])
def test_a_snappy_block_whose_length_lies_is_refused(length: int) -> None:
    """Aiokafka goes back for one that is negative, and round for ever."""
    data = codec.snappy_encode(b"")[:16] + struct.pack(">i", length) + b"\0\0"
    with pytest.raises(CannotUnpack, match="has not the"):
        unpacked(SNAPPY, data)


def test_a_snappy_block_that_claims_four_gigabytes_is_refused_by_its_claim() -> None:
    with pytest.raises(CannotUnpack) as refused:
        unpacked(SNAPPY, b"\xff\xff\xff\xff\x0f" + b"\0" * 20)
    assert refused.value.is_too_large


@CODECS
def test_what_is_cut_off_is_refused(kind: int) -> None:
    with pytest.raises(CannotUnpack, match=r"cannot be unpacked|has not the"):
        unpacked(kind, PACK[kind](bytes(range(256)) * 10)[:-7])


@CODECS
@given(data=st.binary(max_size=200))
@settings(max_examples=30)
def test_anything_is_unpacked_or_refused(kind: int, data: bytes) -> None:
    for one in (data, bytes(PACK[kind](b"abc" * 9))[: len(data)] + data):
        with suppress(CannotUnpack):
            unpacked(kind, one)


def test_a_codec_without_its_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = codec.zstd_encode(b"abc")
    monkeypatch.setattr(codec, "cramjam", None)
    with pytest.raises(CannotUnpack, match=r"zstd.*is not installed"):
        unpacked(ZSTD, data)
    assert unpacked(GZIP, gzip.compress(b"abc")) == b"abc"


def test_a_codec_that_there_is_not_is_refused() -> None:
    with pytest.raises(CannotUnpack, match="not known"):
        unpacked(7, b"abc")
