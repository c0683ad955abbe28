"""One user's requests that are left where they stand: which they are, and how far they are done."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from millstream.schemas.base import UserKey
from millstream.streams.lane.base.window import Entry, Window
from millstream.streams.wire.records import InputRecord


class Deferral:
    """Every request of `user` from the offset `since` on, on the lane's input partition.

    One that an earlier owner began is found again by reading what stands before `rescanned_to`;
    what is `add`ed from there on comes after that. Each is taken once, in order, and counts as done
    when it and all before it are; `unwritten` counts those since it was last written down. `held`
    are records that may be acknowledged once it is committed that there is this deferral, `None`
    when it is. None that is not done came before `from_ms`, by the broker's time. Memory: 8 bytes
    for each that is left.
    """

    def __init__(self, user: UserKey, since: int, *, from_ms: int, rescanned_to: int = 0) -> None:
        self.user = user
        self.since = since
        self.from_ms = from_ms
        self.unwritten = 0
        self.held: list[Entry[InputRecord]] | None = []
        self._rescanned_to = rescanned_to
        self._is_found = rescanned_to <= since
        self._left = array("q")
        self._next = 0
        self._later = array("q")
        self._taken: Window[InputRecord] = Window(1)
        self._done_to = since

    def __len__(self) -> int:
        """Give how many are left where they stand, as far as they are found."""
        return len(self._left) - self._next + len(self._later)

    @property
    def next(self) -> int | None:
        """The offset of the one to be taken next, `None` while none is known."""
        return self._left[self._next] if self._next < len(self._left) else None

    @property
    def end(self) -> int:
        """The offset behind the last one that may be taken."""
        return self._left[-1] + 1

    @property
    def from_offset(self) -> int:
        """From where on an owner after this one has to read: all before is done."""
        return self._done_to

    @property
    def is_caught_up(self) -> bool:
        """Whether none is left that was not taken."""
        return self._is_found and not len(self)

    @property
    def is_used_up(self) -> bool:
        """Whether none is left, and all are done."""
        return self.is_caught_up and not len(self._taken)

    def add(self, offset: int) -> None:
        """Leave one more where it stands; it has just been read."""
        if offset >= self._rescanned_to:
            (self._left if self._is_found else self._later).append(offset)

    def rescanned(self, offset: int) -> None:
        """Note one that an earlier owner left."""
        if offset >= self.since:
            self._left.append(offset)

    def all_found(self) -> None:
        """Say that there are no more to be found."""
        self._left.extend(self._later)
        self._later = array("q")
        self._is_found = True

    def take(self, record: InputRecord, on_done: Callable[[], None]) -> Entry[InputRecord]:
        """Take the next one, which has been read again.

        `on_done` is called when it and all before it are done.
        """
        self._advance(self._next + 1)

        def done() -> None:
            self._done_to, self.from_ms = record.offset + 1, record.timestamp
            self.unwritten += 1
            on_done()

        entry = self._taken.take(record.offset, record, done)
        assert entry is not None  # noqa: S101  offsets are taken once, in order
        return entry

    def give_up_before(self, offset: int) -> int:
        """Pass over those that the broker has deleted; give their number."""
        number = self._next
        while number < len(self._left) and self._left[number] < offset:
            number += 1
        gone = number - self._next
        self._advance(number)
        return gone

    def _advance(self, number: int) -> None:
        self._next = number
        if self._next * 2 > len(self._left):
            del self._left[: self._next]
            self._next = 0
