"""Batches as they go over the wire, right or wrong in one thing."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from aiokafka import codec
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
PACK = {
    GZIP: codec.gzip_encode,
    SNAPPY: codec.snappy_encode,
    LZ4: codec.lz4_encode,
    ZSTD: codec.zstd_encode,
}
TRANSACTIONAL, CONTROL = 0x10, 0x20
BROKERS_TIME = 0x08

_HEADER = struct.Struct(">qiibIhiqqqhii")
_CRC_AT, _CRC_FROM = 17, 21

Headers = list[tuple[str, bytes | None]]


def records_in(values: Iterable[bytes], headers: Headers | None = None) -> bytes:
    """Give records one after the other, as a batch holds them unpacked."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 31)
    for offset, value in enumerate(values):
        builder.append(offset, 5000, b"ada", value, headers or [])
    return bytes(builder.build())[_HEADER.size :]


def batch_of(
    body: bytes,
    *,
    base: int = 0,
    count: int = 1,
    last_delta: int | None = None,
    attributes: int = 0,
    producer_id: int = -1,
    magic: int = 2,
) -> bytes:
    """Give a batch with this body, as it is sent: packed already if `attributes` say so."""
    if last_delta is None:
        last_delta = count - 1
    length = _HEADER.size - 12 + len(body)
    fields = (base, length, 0, magic, 0, attributes, last_delta, 5000, 5000, producer_id, 0, 0)
    raw = bytearray(_HEADER.pack(*fields, count) + body)
    struct.pack_into(">I", raw, _CRC_AT, calc_crc32c(bytes(raw[_CRC_FROM:])))
    return bytes(raw)


def batch(*values: bytes, base: int = 0, packed: int = 0, headers: Headers | None = None) -> bytes:
    """Give an honest batch of these values."""
    body = records_in(values, headers)
    if packed:
        body = bytes(PACK[packed](body))
    return batch_of(body, base=base, count=len(values), attributes=packed)


def bomb(packed: int, *, size: int, base: int = 0) -> bytes:
    """Give a batch of one record with a value of `size` zeros."""
    return batch(bytes(size), base=base, packed=packed)
