"""The records that a lane holds, in offset order; each is acknowledged only when all before it are.

Faust's own tracking of out-of-order acks can commit past a record in flight, so it never sees one.
A record delivered again, as after a rebalance, joins the one that is held already.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

RecordT = TypeVar("RecordT")
Ack = Callable[[], None]

_ANYWHERE = 2**63


@dataclass(slots=True, eq=False)
class Entry(Generic[RecordT]):
    """A record that is held: what came in, how to acknowledge it, and whether it is done.

    `again`: it was not served yet, and may be one that was read before, by who is to know it.
    """

    offset: int
    record: RecordT
    window: Window[RecordT] = field(repr=False)
    acks: list[Ack] = field(default_factory=list)
    done: bool = False
    again: bool = False

    def finish(self) -> None:
        """Say that nothing is left to do for this record."""
        self.window.done(self)


class Window(Generic[RecordT]):
    """The records of one partition between arrival and acknowledgement.

    It is `full` at `capacity`: whoever fills it is to stop, though what comes all the same is
    held. What comes before `again_before` may have been read before the log was set back, or before
    what the group had committed was gone.
    """

    def __init__(self, capacity: int, *, again_before: int = 0) -> None:
        self._again_before = again_before
        self.reads_anew = False
        """Whether nothing tells where the group stood, and nobody has looked at what came first."""
        self.is_catching_up = False
        """Whether what comes may still have been read before: nothing is to be committed then.

        Its next owner would take the rest for what nobody has read.
        """
        self._capacity = capacity
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._entries: OrderedDict[int, Entry[RecordT]] = OrderedDict()
        self._next_offset = 0

    def __len__(self) -> int:
        """Give the number of records held."""
        return len(self._entries)

    @property
    def full(self) -> bool:
        """Whether no more records should come."""
        return len(self._entries) >= self._capacity

    def take(self, offset: int, record: RecordT, ack: Ack) -> Entry[RecordT] | None:
        """Hold a record; give `None` if it is done, or held, already."""
        if offset < self._next_offset:
            ack()
            return None
        held = self._entries.get(offset)
        if held is not None:
            held.acks.append(ack)
            return None
        entry = Entry(offset, record, self, [ack], again=offset < self._again_before)
        self._entries[offset] = entry
        if self.full:
            self._has_room.clear()
        return entry

    def done(self, entry: Entry[RecordT]) -> None:
        """Mark a record done, and acknowledge every record before which nothing is left to do."""
        entry.done = True
        while self._entries:
            first = next(iter(self._entries.values()))
            if not first.done:
                break
            del self._entries[first.offset]
            self._next_offset = first.offset + 1
            for ack in first.acks:
                ack()
        if len(self._entries) <= self._capacity // 2:
            self._has_room.set()

    async def room(self) -> None:
        """Return at once, or once a window that was full is half empty."""
        await self._has_room.wait()

    def may_come_again(self) -> None:
        """Say that nothing tells where the group stood: what comes may have been read before.

        A window that has held records knows where it stands.
        """
        if not self._entries and not self._next_offset:
            self.reads_anew = self.is_catching_up = True
            self._again_before = _ANYWHERE

    def comes_no_more(self) -> None:
        """Say that what comes from here on was not read before."""
        self.reads_anew = self.is_catching_up = False
        self._again_before = 0

    def forget_acks(self) -> None:
        """Acknowledge nothing of what is held: the log that it came from is gone."""
        for entry in self._entries.values():
            entry.acks.clear()

    def undone(self) -> tuple[Entry[RecordT], ...]:
        """Give the records that are not done, in order: what a new owner's lane starts with."""
        return tuple(entry for entry in self._entries.values() if not entry.done)
