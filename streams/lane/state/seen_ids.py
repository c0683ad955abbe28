"""The ids that a stage of a lane is through with: bounded in time and in number, kept in chunks.

An id is known by a digest of it, together with when it was finished and a digest of what was asked
under it. The oldest are sealed in chunks that never change again, so that a snapshot writes each
chunk once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import islice, takewhile
from operator import itemgetter

from millstream.schemas.base import compound_key

IDS_MAX = 500_000
CHUNK_IDS = 8192

_KEY_BYTES = 16
_BODY_BYTES = 8
_TIME_BYTES = 8
_ID_BYTES = _KEY_BYTES + _TIME_BYTES + _BODY_BYTES
_DIGESTS_CACHED_MAX = 4096  # each id is asked for a few times while its request is under way
_BODY_BITS = 8 * _BODY_BYTES
_BODY_MASK = (1 << _BODY_BITS) - 1


@lru_cache(maxsize=_DIGESTS_CACHED_MAX)
def id_digest(*parts: str) -> int:
    """Give the 16-byte digest that an id is known by; its parts hold no control characters."""
    return int.from_bytes(blake2b(compound_key(*parts).encode(), digest_size=_KEY_BYTES).digest())


@dataclass(slots=True)
class _Chunk:
    """A stretch of sealed ids: `left` of them are still remembered."""

    number: int
    left: int
    written: bool


@dataclass(frozen=True, slots=True)
class SealedChunk:
    """A sealed chunk as a snapshot writes it."""

    number: int
    data: bytes


class SeenIds:
    """Finished ids in the order in which they are forgotten, the oldest first.

    At most `ids_max` are remembered: beyond that the oldest goes, and `forgotten_ms` says up to
    when ids were forgotten for want of room. `since_ms` is where the window begins: what was
    finished before it is to be forgotten. Memory per id: see `benchmarks/measures/memory.py`.
    A quarter more may be there between `unsorted` and `sort`.
    """

    def __init__(self, *, ids_max: int = IDS_MAX, chunk_ids: int = CHUNK_IDS) -> None:
        self._ids_max = ids_max
        self._chunk_ids = chunk_ids
        # Of each id its time in milliseconds, and behind it, in the low bits, the body's digest.
        # A dict alone would be searched through its deleted entries for the oldest: hence `order`.
        self._sealed: dict[int, int] = {}
        self._order: deque[int] = deque()
        self._chunks: deque[_Chunk] = deque()
        self._next_chunk = 0
        self._open: dict[int, int] = {}
        # Of sealed ids that were finished again: a chunk that is written never changes.
        self._again: dict[int, int] = {}
        self._is_sorted = True
        self.since_ms = 0
        self.forgotten_ms: int | None = None

    def __len__(self) -> int:
        """Give the number of ids that are remembered."""
        return len(self._sealed) + len(self._open)

    def __contains__(self, key: int) -> bool:
        """Tell whether an id is remembered."""
        return key in self._open or key in self._sealed

    def body(self, key: int) -> int | None:
        """Give the digest of what was asked under an id, `None` if that or the id is not known."""
        known = self._open.get(key)
        if known is None:
            known = self._again.get(key) or self._sealed.get(key, 0)
        return (known & _BODY_MASK) or None

    def add(self, key: int, at_ms: int, body: int | None = None) -> None:
        """Remember an id as finished at `at_ms`. Added again, it keeps the body it had."""
        if key in self._sealed:
            before = self._again.get(key) or self._sealed[key]
            if (known := _newest(before, at_ms, body)) != before:
                self._again[key] = known
            return
        self._open[key] = _newest(self._open.pop(key, 0), at_ms, body)
        if self._is_sorted:
            self._make_room()
        elif len(self) > self._ids_max + self._ids_max // 4:
            # Whatever is added yet, so many are newer than those that go. Sorting is rare so.
            self._sort()

    def unsorted(self) -> None:
        """Take what is added from now on for out of turn: which is the oldest, sorting tells."""
        self._is_sorted = False

    def sort(self) -> None:
        """Put what was added out of turn, topic by topic, in the order of time."""
        self._sort()
        self._is_sorted = True

    def _sort(self) -> None:
        self._open = dict(sorted(self._open.items(), key=itemgetter(1)))
        self._make_room()

    def forget_before(self, at_ms: int) -> None:
        """Forget what was finished before `at_ms`, and seal what fills a chunk."""
        self.since_ms = max(self.since_ms, at_ms)
        while len(self._open) >= self._chunk_ids:
            self._seal()
        oldest = at_ms << _BODY_BITS
        while self._order and self._sealed[self._order[0]] < oldest:
            self._forget_sealed()
        if not self._order and next(iter(self._open.values()), oldest) < oldest:
            for key in list(takewhile(lambda key: self._open[key] < oldest, self._open)):
                del self._open[key]

    @property
    def open_data(self) -> bytes:
        """Give the ids that are in no chunk yet, as bytes."""
        return _packed(self._open.items())

    @property
    def again_data(self) -> bytes:
        """Give the sealed ids that were finished again since, as bytes."""
        return _packed(self._again.items())

    @property
    def canonical_data(self) -> bytes:
        """Give the remembered ids that are not to be forgotten, in order, as bytes.

        Without those that stand out of turn, and so are forgotten later than they should be.
        """
        oldest = self.since_ms << _BODY_BITS
        ids = self._sealed | self._again | self._open
        return _packed(sorted((key, known) for key, known in ids.items() if known >= oldest))

    @property
    def chunks(self) -> tuple[tuple[int, int], ...]:
        """Give the chunks of which ids are remembered: number, and how many, the last ones."""
        return tuple((chunk.number, chunk.left) for chunk in self._chunks)

    def unwritten(self) -> tuple[SealedChunk, ...]:
        """Give the sealed chunks that no snapshot holds yet."""
        found: list[SealedChunk] = []
        start = 0
        for chunk in self._chunks:
            if not chunk.written:
                keys = islice(self._order, start, start + chunk.left)
                found.append(
                    SealedChunk(chunk.number, _packed((key, self._sealed[key]) for key in keys))
                )
            start += chunk.left
        return tuple(found)

    def mark_written(self, numbers: Iterable[int]) -> None:
        """Note that a committed snapshot holds these chunks."""
        written = set(numbers)
        for chunk in self._chunks:
            chunk.written = chunk.written or chunk.number in written

    def load(
        self,
        chunks: Iterable[tuple[SealedChunk, int]],
        open_data: bytes,
        again_data: bytes = b"",
        since_ms: int = 0,
    ) -> None:
        """Take in what a snapshot held, chunks with how many of their last ids are remembered.

        Nothing is remembered before.
        """
        for chunk, left in chunks:
            # What was forgotten of a chunk may since have been finished anew, and stand behind.
            ids = _unpacked(chunk.data[-left * _ID_BYTES :])
            self._sealed.update(ids)
            self._order.extend(ids)
            self._chunks.append(_Chunk(chunk.number, len(ids), written=True))
            self._next_chunk = chunk.number + 1
        self._open = _unpacked(open_data)
        self._again = _unpacked(again_data)
        self.since_ms = since_ms
        self._make_room()

    def _seal(self) -> None:
        keys = list(islice(self._open, self._chunk_ids))
        for key in keys:
            self._sealed[key] = self._open.pop(key)
        self._order.extend(keys)
        self._chunks.append(_Chunk(self._next_chunk, len(keys), written=False))
        self._next_chunk += 1

    def _forget_sealed(self) -> int:
        chunk = self._chunks[0]
        chunk.left -= 1
        if not chunk.left:
            self._chunks.popleft()
        key = self._order.popleft()
        if (known := self._again.pop(key, None)) is not None:
            self._open[key] = known
        return self._sealed.pop(key)

    def _make_room(self) -> None:
        while len(self) > self._ids_max:
            known = self._forget_sealed() if self._order else self._open.pop(next(iter(self._open)))
            self.forgotten_ms = max(self.forgotten_ms or 0, known >> _BODY_BITS)


def unsealed(
    chunks: Iterable[tuple[SealedChunk, int]], open_data: bytes, again_data: bytes
) -> bytes:
    """Give what a snapshot held as ids that are in no chunk, as bytes; see `SeenIds.load`."""
    sealed = b"".join(chunk.data[-left * _ID_BYTES :] for chunk, left in chunks)
    return sealed + again_data + open_data


def _newest(before: int, at_ms: int, body: int | None) -> int:
    moment = max(at_ms, before >> _BODY_BITS)
    return moment << _BODY_BITS | (body or before & _BODY_MASK)


def _packed(ids: Iterable[tuple[int, int]]) -> bytes:
    value_bytes = _TIME_BYTES + _BODY_BYTES
    return b"".join(key.to_bytes(_KEY_BYTES) + value.to_bytes(value_bytes) for key, value in ids)


def _unpacked(data: bytes) -> dict[int, int]:
    read = int.from_bytes
    return {
        read(data[at : at + _KEY_BYTES]): read(data[at + _KEY_BYTES : at + _ID_BYTES])
        for at in range(0, len(data), _ID_BYTES)
    }
