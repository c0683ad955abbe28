"""What stands in a reader's hands for a batch that cannot be read: its offsets, and why."""

from __future__ import annotations

from millstream.schemas.dead_letters import BatchTooLarge, BatchUnreadable

__all__ = ["UnreadBatch"]


class UnreadBatch(bytes):
    """The value of the one record that a reader gets for a batch that cannot be read.

    It is empty, so whoever does not ask for it finds no JSON. The record stands at the batch's
    last offset, so that reading goes on behind the batch. `first` and `last` are its offsets,
    `problem` says why it cannot be read. `is_foreign`: it is larger than any of Millstream's own.
    """

    first: int
    last: int
    problem: str
    is_foreign: bool

    @classmethod
    def of(cls, first: int, last: int, problem: str, *, is_foreign: bool) -> UnreadBatch:
        """Make one."""
        made = cls()
        made.first, made.last, made.problem, made.is_foreign = first, last, problem, is_foreign
        return made

    @property
    def poison(self) -> BatchTooLarge | BatchUnreadable:
        """What `decode` raises for it."""
        kind = BatchTooLarge if self.is_foreign else BatchUnreadable
        one = self.first == self.last
        offsets = f"offset {self.last}" if one else f"offsets {self.first} to {self.last}"
        return kind(f"the batch of {offsets} cannot be read: {self.problem}")
