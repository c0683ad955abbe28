"""Sealed stretches of ids: what stands in one never changes, and what is forgotten of it is told.

An id stands in 32 bytes: what it is known by, when it was finished, with the highest bit of the
time for one that ran, and what was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from millstream.streams.lane.state.ids.digests import KEY_BYTES

__all__ = ["Chunk", "SealedChunk", "packed", "unpacked"]

_VALUE_BYTES: Final = 16
_ID_BYTES: Final = KEY_BYTES + _VALUE_BYTES


@dataclass(frozen=True, slots=True)
class SealedChunk:
    """A sealed chunk as a snapshot writes it."""

    number: int
    data: bytes


@dataclass(slots=True)
class Chunk:
    """A stretch of sealed ids, the oldest first; 0 stands where one is remembered no more."""

    number: int
    keys: list[int]
    left: int
    """How many are still remembered."""

    first: int = 0
    """Where the first stands that is."""

    written: bool = False
    """Whether a committed snapshot holds it: then its places may not change."""

    @classmethod
    def of(cls, number: int, keys: list[int]) -> Chunk:
        """Seal ids."""
        return cls(number, keys, len(keys))

    @classmethod
    def loaded(
        cls, sealed: SealedChunk, left: int, gaps: bytes | None
    ) -> tuple[Chunk, dict[int, int]]:
        """Give a chunk that a snapshot holds, and what is remembered of it.

        That is its last `left`, or what `gaps` says.
        """
        rows = unpacked(sealed.data)
        if gaps is None:
            gaps = bytes(len(rows) - left) + b"\1" * left
        keys = [key if is_left else 0 for key, is_left in zip(rows, gaps, strict=True)]
        chunk = cls(sealed.number, keys, left, written=True)
        return chunk, {key: rows[key] for key in chunk}

    def __iter__(self) -> Iterator[int]:
        """Give the ids that are remembered, the oldest first."""
        return filter(None, self.keys)

    @property
    def oldest(self) -> tuple[int, int]:
        """Where the oldest stands that is remembered, and which it is."""
        while not self.keys[self.first]:
            self.first += 1
        return self.first, self.keys[self.first]

    @property
    def gaps(self) -> bytes | None:
        """A byte for each place, 1 where an id is remembered; `None` where the last ones are."""
        return None if all(self.keys[-self.left :]) else bytes(map(bool, self.keys))

    def forget(self, at: int) -> None:
        """Forget the id that stands at a place."""
        self.keys[at] = 0
        self.left -= 1

    def close_gaps(self) -> None:
        """Have places for what is remembered alone; not for one that is written."""
        self.keys, self.first = list(self), 0


def packed(ids: Iterable[tuple[int, int]]) -> bytes:
    """Give ids as bytes, in their order."""
    return b"".join(key.to_bytes(KEY_BYTES) + value.to_bytes(_VALUE_BYTES) for key, value in ids)


def unpacked(data: bytes) -> dict[int, int]:
    """Give ids from bytes, in their order. Raises `ValueError` for bytes that are cut off."""
    if len(data) % _ID_BYTES:
        message = f"{len(data)} bytes are no ids of {_ID_BYTES} bytes each"
        raise ValueError(message)
    read = int.from_bytes
    return {
        read(data[at : at + KEY_BYTES]): read(data[at + KEY_BYTES : at + _ID_BYTES])
        for at in range(0, len(data), _ID_BYTES)
    }
