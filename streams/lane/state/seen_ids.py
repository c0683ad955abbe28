"""The ids that a stage of a lane is through with: bounded in time and in number, kept in chunks.

An id is known by a digest of it, together with when it was finished and a digest of what was asked
under it. The oldest are sealed in chunks that never change again, so that a snapshot writes each
chunk once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, takewhile

from millstream.streams.lane.state.ids.chunks import Chunk, SealedChunk, packed, unpacked
from millstream.streams.lane.state.ids.shares import Shares, kept
from millstream.streams.lane.state.ids.values import body_of, has_run, newest, time_of

__all__ = ["CHUNK_IDS", "IDS_MAX", "SealedChunk", "SeenIds", "unsealed"]

IDS_MAX = 500_000
CHUNK_IDS = 8192


class SeenIds:
    """Finished ids in the order in which they are forgotten, the oldest first.

    `ids_max` are remembered, and an eighth more where that is over 1,000. Beyond that, ids go of
    whoever has most of them (`ids/shares.py`); `forgotten_ms` says up to when ids of what ran were
    forgotten so, `lost_ms` up to when any were. `since_ms` is where the window begins: what was
    finished before it is to be forgotten. Memory per id: see `benchmarks/measures/memory.py`. A
    quarter more may be there between `unsorted` and `sort`.
    """

    def __init__(self, *, ids_max: int = IDS_MAX, chunk_ids: int = CHUNK_IDS) -> None:
        self._ids_max = ids_max
        self._more = ids_max // 1000 * 125
        self._chunk_ids = chunk_ids
        self._sealed: dict[int, int] = {}
        self._chunks: list[Chunk] = []
        self._next_chunk = 0
        self._open: dict[int, int] = {}
        # Of sealed ids that were finished again: a chunk that is written never changes.
        self._again: dict[int, int] = {}
        self._is_sorted = True
        # To look for what is to go takes longer than the loop may be held up: a step at a time.
        self._making_room: Iterator[None] | None = None
        self._adds_per_step = 1
        self._adds_waited = 0
        self.since_ms = 0
        self.forgotten_ms: int | None = None
        self.lost_ms: int | None = None

    def __len__(self) -> int:
        """Give the number of ids that are remembered."""
        return len(self._sealed) + len(self._open)

    def __contains__(self, key: int) -> bool:
        """Tell whether an id is remembered."""
        return key in self._open or key in self._sealed

    def body(self, key: int) -> int | None:
        """Give the digest of what was asked under an id, `None` if that or the id is not known."""
        return body_of(self._value(key))

    def add(self, key: int, at_ms: int, body: int | None = None, *, ran: bool = True) -> None:
        """Remember an id as finished at `at_ms`. Added again, it keeps the body it had.

        `ran`: it would have an effect once more if it were forgotten and came again.
        """
        if key in self._sealed:
            before = self._value(key)
            if (known := newest(before, at_ms, body, ran=ran)) != before:
                self._again[key] = known
            return
        self._open[key] = newest(self._open.pop(key, 0), at_ms, body, ran=ran)
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
        self._open = dict(sorted(self._open.items(), key=lambda one: time_of(one[1])))
        self._make_room(at_once=True)

    def forget_before(self, at_ms: int) -> None:
        """Forget what was finished before `at_ms`, and seal what fills a chunk."""
        self.since_ms = max(self.since_ms, at_ms)
        while len(self._open) >= self._chunk_ids:
            self._seal()
        while self._chunks:
            at, oldest = self._chunks[0].oldest
            if time_of(self._sealed[oldest]) >= at_ms:
                return
            self._forget_sealed(self._chunks[0], at)
            if oldest in self._again:
                self._open[oldest] = self._again.pop(oldest)
        stands = self._open.items()
        for key, _ in list(takewhile(lambda one: time_of(one[1]) < at_ms, stands)):
            del self._open[key]

    @property
    def open_data(self) -> bytes:
        """Give the ids that are in no chunk yet, as bytes."""
        return packed(self._open.items())

    @property
    def again_data(self) -> bytes:
        """Give the sealed ids that were finished again since, as bytes."""
        return packed(self._again.items())

    @property
    def canonical_data(self) -> bytes:
        """Give the remembered ids that are not to be forgotten, in order, as bytes.

        Without those that stand out of turn, and so are forgotten later than they should be, and
        without those that are there only until room is made.
        """
        ids = self._sealed | self._again | self._open
        in_window = {key: one for key, one in ids.items() if time_of(one) >= self.since_ms}
        return packed(sorted(kept(in_window, self._ids_max).items()))

    @property
    def chunks(self) -> tuple[tuple[int, int], ...]:
        """Give the chunks of which ids are remembered: number, and how many of their ids."""
        return tuple((chunk.number, chunk.left) for chunk in self._chunks)

    @property
    def gaps(self) -> dict[str, bytes]:
        """Give, by number, which ids are remembered of a chunk where these are not its last ones.

        A byte for each that the chunk was written with: 1 for those that are remembered. To be
        asked for after `unwritten`, which settles what a chunk is written with.
        """
        gaps = ((str(chunk.number), chunk.gaps) for chunk in self._chunks)
        return {number: told for number, told in gaps if told is not None}

    def unwritten(self) -> tuple[SealedChunk, ...]:
        """Give the sealed chunks that no snapshot holds yet."""
        found: list[SealedChunk] = []
        for chunk in self._chunks:
            if not chunk.written:
                chunk.close_gaps()
                rows = packed((key, self._sealed[key]) for key in chunk)
                found.append(SealedChunk(chunk.number, rows))
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
        gaps: Mapping[str, bytes] | None = None,
    ) -> None:
        """Take in what a snapshot held, chunks with how many of their ids are remembered.

        Those are their last ones where `gaps` tells nothing else. Nothing is remembered before.
        """
        for sealed, left in chunks:
            told = (gaps or {}).get(str(sealed.number))
            chunk, ids = Chunk.loaded(sealed, left, told)
            self._sealed.update(ids)
            self._chunks.append(chunk)
            self._next_chunk = max(self._next_chunk, chunk.number + 1)
        self._open = unpacked(open_data)
        self._again = unpacked(again_data)
        self.since_ms = since_ms
        self._make_room(at_once=True)

    def _value(self, key: int) -> int:
        """Give what is remembered of an id, 0 if it is not."""
        known = self._open.get(key)
        return known or self._again.get(key) or self._sealed.get(key, 0)

    def _seal(self) -> None:
        keys = list(islice(self._open, self._chunk_ids))
        for key in keys:
            self._sealed[key] = self._open.pop(key)
        self._chunks.append(self._new_chunk(keys))

    def _new_chunk(self, keys: list[int]) -> Chunk:
        self._next_chunk += 1
        return Chunk.of(self._next_chunk - 1, keys)

    def _forget_sealed(self, chunk: Chunk, at: int) -> None:
        """Forget what stands in a chunk."""
        del self._sealed[chunk.keys[at]]
        chunk.forget(at)
        if not chunk.left:
            self._chunks.remove(chunk)

    def _lost(self, value: int) -> None:
        """Take note that an id was forgotten for want of room."""
        self.lost_ms = max(self.lost_ms or 0, time_of(value))
        if has_run(value):
            self.forgotten_ms = max(self.forgotten_ms or 0, time_of(value))

    def _make_room(self, *, at_once: bool = False) -> None:
        """Forget what is too much: step by step while there is room for a while, or at once."""
        over = len(self) - self._ids_max
        if over <= (0 if at_once else self._more // 2):
            return
        if at_once or over >= self._more:
            self._making_room = None  # it has counted too few
            for _ in self._made_room():
                pass
            return
        if self._making_room is None:
            self._making_room = self._made_room()
            steps = 3 * len(self._chunks) + 5
            self._adds_per_step = max(1, self._more // 4 // steps)
        self._adds_waited += 1
        if self._adds_waited >= self._adds_per_step:
            self._adds_waited = 0
            if next(self._making_room, self) is self:
                self._making_room = None

    def _made_room(self) -> Iterator[None]:
        """Count all ids, look at them, then forget what is too much; a chunk in each step."""
        counts = Shares(self._ids_max)
        counts.count(self._open)
        for chunk in tuple(self._chunks):
            yield
            counts.count(chunk)
        yield
        cut = counts.cut()
        cut.look(self._open.items())
        for chunk in tuple(self._chunks):
            yield
            cut.look((key, self._value(key)) for key in chunk)
        yield
        cut.decide()
        yield
        for key in [key for key, value in self._open.items() if cut.goes(key, value)]:
            self._lost(self._open.pop(key))
        for chunk in tuple(self._chunks):
            yield
            for at, key in enumerate(chunk.keys):
                if key and cut.goes(key, value := self._value(key)):
                    self._forget_sealed(chunk, at)
                    self._again.pop(key, None)
                    self._lost(value)
        yield
        self._join_sparse()

    def _join_sparse(self) -> None:
        """Have no more chunks than twice what the ids in them would fill."""
        chunks: list[Chunk] = []
        for chunk in self._chunks:
            if chunks and chunks[-1].left + chunk.left <= self._chunk_ids:
                chunks[-1] = self._new_chunk([*chunks[-1], *chunk])
            else:
                chunks.append(chunk)
        self._chunks = chunks


def unsealed(
    chunks: Iterable[tuple[SealedChunk, int]],
    open_data: bytes,
    again_data: bytes,
    gaps: Mapping[str, bytes],
) -> bytes:
    """Give what a snapshot held as ids that are in no chunk, as bytes; see `SeenIds.load`."""
    loaded = (Chunk.loaded(each, left, gaps.get(str(each.number))) for each, left in chunks)
    return b"".join(packed(ids.items()) for _, ids in loaded) + again_data + open_data
