"""Reading checkpoints back from the log: one pass serves every session that waits for its own.

Whoever takes over a partition needs the checkpoint of each session that goes on. Read one after
the other, each with a seek and a fetch of its own, the last of 25 sessions waited for seconds.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition

from millstream.schemas.dead_letters import BatchUnreadable
from millstream.schemas.errors import LaneLost, Poison, ServiceUnavailable
from millstream.schemas.events import CheckpointSaved, SessionUpdated
from millstream.streams.broker.compacted import pass_over
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.wire.codec import cloud_event_id, decode, event_id_of, own_id
from millstream.streams.wire.keys import SessionKey, session_key

NEAR_RECORDS = 200
"""What stands no further on is read on to; behind a wider gap a new stretch begins."""

AT_ONCE_RECORDS = 2_000
"""What is read of a long stretch before others may read."""


@dataclass(slots=True, eq=False)
class _Want:
    head: SessionUpdated
    is_settled: bool = False
    found: CheckpointSaved | None = None


class CheckpointLog:
    """The log of one partition's checkpoints, looked through by the sessions' heads."""

    def __init__(self, reader: PartitionReader, where: TopicPartition) -> None:
        self._reader = reader
        self._where = where
        # By the id that a checkpoint's record has in its headers, in either form that was ever
        # written: others need not be parsed.
        self._wanted: defaultdict[bytes, list[_Want]] = defaultdict(list)

    async def find(self, head: SessionUpdated) -> CheckpointSaved | None:
        """Give the checkpoint that `head` names, `None` if the log no longer has it.

        Raises `LaneLost` if the log cannot be read now.
        """
        want = _Want(head)
        names = _names_of(head)
        for name in names:
            self._wanted[name].append(want)
        try:
            async with self._reader.lock:
                # Settled already, if whoever had the lock before came by.
                while not want.is_settled:
                    await self._look_for(want)
        except ServiceUnavailable as error:
            raise LaneLost(f"a checkpoint cannot be read: {error}") from error
        finally:
            want.is_settled = True  # nobody is to look for it any more
            for name in names:
                self._wanted[name].remove(want)
                if not self._wanted[name]:
                    del self._wanted[name]
        return want.found

    async def find_turn(
        self, session: SessionKey, turn: int, *, near: int | None, since_ms: int
    ) -> tuple[CheckpointSaved, int] | None:
        """Give the checkpoint of a session's turn and where it stands, `None` if the log has none.

        `near` is where it is believed to stand; else all is read that came since `since_ms`. Raises
        `ServiceUnavailable`.
        """
        async with self._reader.lock:
            ends = await self._reader.high_watermarks([self._where])
            if near is not None:
                first = self._reader.read(ends, from_offset=near)
                async with aclosing(first) as records:
                    async for record in records:
                        if (found := _of_turn(record, session, turn)) is not None:
                            return found
                        break
        behind: int | None = None
        while True:
            # Others have their turn now and then: it may be all that the log has of a month.
            async with self._reader.lock:
                stretch = (
                    self._reader.read(ends, since_ms=since_ms)
                    if behind is None
                    else self._reader.read(ends, from_offset=behind)
                )
                count = 0
                async with aclosing(stretch) as records:
                    async for record in records:
                        if (found := _of_turn(record, session, turn)) is not None:
                            return found
                        behind, count = record.offset + 1, count + 1
                        if count == AT_ONCE_RECORDS:
                            break
                    else:
                        return None

    async def _look_for(self, want: _Want) -> None:
        """Read the stretch around `want`: with it those that are near each other, up to a gap."""
        # Each want stands under each of its names.
        unsettled = {
            id(one): one for named in self._wanted.values() for one in named if not one.is_settled
        }
        wants = sorted(unsettled.values(), key=_offset_min)
        first = wants.index(want)
        while first and _offset_min(wants[first]) <= _offset_min(wants[first - 1]) + NEAR_RECORDS:
            first -= 1
        left = deque(wants[first:])
        # After that: their checkpoints are committed, so they stand before this end.
        ends = await self._reader.high_watermarks([self._where])
        stretch = self._reader.read(ends, from_offset=_offset_min(left[0]))
        async with aclosing(stretch) as records:
            async for record in records:
                self._meet(record)
                while left and left[0].is_settled:
                    left.popleft()
                if not left or _offset_min(left[0]) > record.offset + NEAR_RECORDS:
                    return
        # Up to the end of the log: what is not there is nowhere.
        for one in left:
            one.is_settled = True

    def _meet(self, record: Any) -> None:
        event_id = event_id_of(record)
        if event_id is not None and event_id not in self._wanted:
            return
        try:
            checkpoint = decode(record, CheckpointSaved)
        except Poison as poison:
            _pass_over(record, poison)
            return
        for want in self._named(checkpoint):
            want.is_settled, want.found = True, checkpoint

    def _named(self, checkpoint: CheckpointSaved) -> Iterable[_Want]:
        named = self._wanted.get(cloud_event_id(checkpoint), ())
        return (want for want in named if is_named_by(want.head, checkpoint))


def _of_turn(record: Any, session: SessionKey, turn: int) -> tuple[CheckpointSaved, int] | None:
    event_id = event_id_of(record)
    if event_id is not None and session[2].encode() not in event_id:
        return None
    try:
        saved = decode(record, CheckpointSaved)
    except Poison as poison:
        _pass_over(record, poison)
        return None
    is_it = session_key(saved) == session and saved.turn == turn
    return (saved, record.offset) if is_it else None


def _pass_over(record: Any, poison: Poison) -> None:
    """Pass over what is no checkpoint: no session is to fail for it.

    Of a batch that is corrupt, the sessions do whose checkpoints it held: they find none.
    """
    if not isinstance(poison, BatchUnreadable):
        pass_over(record, poison)


def is_named_by(head: SessionUpdated, checkpoint: CheckpointSaved) -> bool:
    """Tell whether a session's head names this very checkpoint."""
    same_session = session_key(checkpoint) == session_key(head)
    return same_session and checkpoint.checkpoint_id == head.checkpoint_id


def _offset_min(want: _Want) -> int:
    return want.head.checkpoint_offset_min


def _names_of(head: SessionUpdated) -> tuple[bytes, bytes]:
    """Give the ids of the checkpoint's record: as it is written, and as it once was.

    The second form, without user and type, was written before ids were unique over users.
    """
    bare = f"{head.session_id}:{head.checkpoint_id}"
    return own_id(CheckpointSaved, head, bare), bare.encode()
