"""Unpacking what a batch holds, within a bound that is kept before memory is taken.

Kafka bounds a batch as it is sent (`max.message.bytes`), not what it unpacks to: 8 kB of zstd are
256 MiB. aiokafka unpacks whatever comes. Here each codec stops at the bound: by the length that the
data itself claims (snappy), or into a buffer of that size (zstd, lz4, gzip).
"""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from typing import Any

from aiokafka import codec

__all__ = ["UNPACKED_BYTES_MAX", "CannotUnpack", "unpacked"]

UNPACKED_BYTES_MAX = 64 * 1024 * 1024
"""Most bytes that a batch may unpack to (decision 0055)."""

_FIRST_BYTES = 64 * 1024
_FIRST_TIMES = 8
_GROWTH = 8
_IS_FULL = "failed to write whole buffer"
"""What cramjam says where its output has no room for more."""

_XERIAL = bytes((0x82, *b"SNAPPY", 0)) + struct.pack(">ii", 1, 1)
"""How a stream of blocks begins that snappy-java and aiokafka write."""


class CannotUnpack(Exception):
    """Data cannot be unpacked. `is_too_large`: it holds more than the bound."""

    def __init__(self, problem: str, *, is_too_large: bool = False) -> None:
        super().__init__(problem)
        self.is_too_large = is_too_large


def unpacked(kind: int, data: bytes) -> bytes:
    """Unpack what a batch of this codec holds (1 gzip, 2 snappy, 3 lz4, 4 zstd).

    Takes at most `UNPACKED_BYTES_MAX` of memory, and as much again for the copy that it gives.
    Raises `CannotUnpack`, also where the codec's library is missing.
    """
    name, unpack = _CODECS.get(kind, (None, None))
    if name is None or unpack is None:
        raise CannotUnpack(f"it is packed by a codec that is not known ({kind})")
    if name != "gzip" and codec.cramjam is None:
        raise CannotUnpack(f"it is packed by {name}, and the library for that is not installed")
    try:
        return unpack(data)
    except (CannotUnpack, MemoryError):
        raise
    # What a codec's library raises for wrong data is its own affair.
    except Exception as error:
        raise CannotUnpack(f"it cannot be unpacked as {name}: {error}") from error


def _too_large() -> CannotUnpack:
    problem = f"it unpacks to more than {UNPACKED_BYTES_MAX} bytes"
    return CannotUnpack(problem, is_too_large=True)


def _gzip(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        found = stream.read(UNPACKED_BYTES_MAX + 1)
    if len(found) > UNPACKED_BYTES_MAX:
        raise _too_large()
    return found


def _snappy(data: bytes) -> bytes:
    if not data.startswith(_XERIAL):
        return _snappy_block(data, UNPACKED_BYTES_MAX)
    blocks, at, left = [], len(_XERIAL), UNPACKED_BYTES_MAX
    while at < len(data):
        (length,) = struct.unpack_from(">i", data, at)
        at += 4
        if not 0 < length <= len(data) - at:
            raise CannotUnpack(f"a block of its snappy stream has not the {length} bytes it says")
        blocks.append(_snappy_block(data[at : at + length], left))
        left -= len(blocks[-1])
        at += length
    return b"".join(blocks)


def _snappy_block(data: bytes, bytes_max: int) -> bytes:
    snappy = codec.cramjam.snappy
    if snappy.decompress_raw_len(data) > bytes_max:
        raise _too_large()
    return bytes(snappy.decompress_raw(data))


def _lz4(data: bytes) -> bytes:
    return _into_buffer(codec.cramjam.lz4.decompress_into, data)


def _zstd(data: bytes) -> bytes:
    return _into_buffer(codec.cramjam.zstd.decompress_into, data)


def _into_buffer(decompress_into: Callable[[Any, Any], int], data: bytes) -> bytes:
    """Unpack into a buffer that grows as it must, up to the bound itself."""
    size = max(_FIRST_BYTES, _FIRST_TIMES * len(data))
    while True:
        size = min(size, UNPACKED_BYTES_MAX)
        buffer = bytearray(size)
        try:
            length = decompress_into(data, buffer)
        except codec.cramjam.DecompressionError as error:
            # Its words only name the fault: what is wrong is wrong at each size.
            if size == UNPACKED_BYTES_MAX:
                raise (_too_large() if _IS_FULL in str(error) else error) from None
        else:
            with memoryview(buffer) as view:
                return bytes(view[:length])
        del buffer
        size *= _GROWTH


_CODECS: dict[int, tuple[str, Callable[[bytes], bytes]]] = {
    1: ("gzip", _gzip),
    2: ("snappy", _snappy),
    3: ("lz4", _lz4),
    4: ("zstd", _zstd),
}
