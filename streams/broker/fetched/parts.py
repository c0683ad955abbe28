"""A large batch in parts, so that no record takes more memory to be parsed than it may.

A header is two bytes on the wire and some 75 in memory: 64 MiB of them are 2.5 GiB, and 8 kB of
zstd are 64 MiB. aiokafka's parser makes all headers of a record before anybody sees it, and only
then looks at the length that the record says. So it is given a part at a time, in which a record
that lies about its length finds no more than that.

Source: Kafka's record batches, message format 2. The like elsewhere: apache/kafka#23158 (a count
of headers is held against the bytes that are left), apache/iggy#4229.
"""

from __future__ import annotations

from collections.abc import Iterator

from aiokafka.record.util import decode_varint_py

from millstream.streams.wire.sizes import HEADERS_READ_MAX

__all__ = ["PART_BYTES", "CannotPart", "parts_of"]

PART_BYTES = 1_048_576
"""What is parsed at once: at the worst 40 MiB of headers."""

_MORE, _BITS, _LENGTH_BYTES_MAX = 0x80, 7, 5


class CannotPart(Exception):
    """Records cannot be told apart. `is_too_large`: a long one has more headers than are read."""

    def __init__(self, problem: str, *, is_too_large: bool = False) -> None:
        super().__init__(problem)
        self.is_too_large = is_too_large


def parts_of(records: memoryview, count: int) -> Iterator[tuple[memoryview, int]]:
    """Give the bytes of `count` records in parts, each with the number of its records.

    A part has up to `PART_BYTES`, or one record that is longer. Raises `CannotPart`.
    """
    begin = at = found = 0
    while found < count:
        end = _end(records, at)
        if end - at > PART_BYTES:
            _require_few_headers(records[at:end])
        if end - begin > PART_BYTES and at > begin:
            yield records[begin:at], found
            begin, count, found = at, count - found, 0
        at, found = end, found + 1
    # What stands behind the last one is for the parser to refuse.
    if len(records) - at > PART_BYTES:
        raise CannotPart(f"{len(records) - at} bytes stand behind its last record")
    yield records[begin:], found


def _end(records: memoryview, at: int) -> int:
    """Give where the record ends that begins there."""
    length = shift = 0
    for byte in records[at : at + _LENGTH_BYTES_MAX]:
        length |= (byte & ~_MORE) << shift
        if not byte & _MORE:
            break
        shift += _BITS
    else:
        problem = "a record does not say how long it is"
        raise CannotPart(problem)
    # It stands in `shift / 7 + 1` bytes, zigzag: its lowest bit is the sign.
    begin, length = at + shift // _BITS + 1, (length >> 1) ^ -(length & 1)
    if not 0 < length <= len(records) - begin:
        raise CannotPart(f"a record has not the {length} bytes that it says")
    return begin + length


def _require_few_headers(record: memoryview) -> None:
    try:
        _, at = decode_varint_py(record, 0)
        at += 1  # attributes
        for _ in range(2):  # its time, its offset
            _, at = decode_varint_py(record, at)
        for _ in range(2):  # key, value
            length, at = decode_varint_py(record, at)
            at += max(0, length)
        headers, _ = decode_varint_py(record, at)
    except (IndexError, ValueError) as error:
        raise CannotPart(f"a record of {len(record)} bytes cannot be read: {error}") from error
    if headers > HEADERS_READ_MAX:
        problem = f"a record has {headers} headers, at most {HEADERS_READ_MAX} are read"
        raise CannotPart(problem, is_too_large=True)
