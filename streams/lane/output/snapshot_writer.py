"""Taking a lane's snapshots: exact cuts through what it has committed, off the way of its runs.

Some folds take in an event before it is committed, as the layers do; the others follow after. So a
cut is made in two steps. First, between two ticks of the loop, the state of the former is copied
and a member without records is submitted: all that they have folded was submitted before it. When
that member is done, all of it is committed and the other folds have followed; nothing later has.
What was captured is then packed in a thread, and written in one transaction.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from millstream.schemas.base import compound_key
from millstream.schemas.errors import LaneLost, MillstreamError
from millstream.schemas.lane_events import LaneSnapshot, SnapshotHeader
from millstream.schemas.ports import ClockMs
from millstream.schemas.topics import SNAPSHOTS
from millstream.streams.broker.batches import Outgoing
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.requests import IDS
from millstream.streams.lane.state.restore import Restored
from millstream.streams.lane.state.snapshot_format import (
    HEADER,
    Captured,
    digest,
    ids_part,
    state_part,
    state_parts,
    taken_under,
)
from millstream.streams.settings import Settings
from millstream.streams.transactions.committer import CommitRefused, Committer, Outcome
from millstream.streams.wire.codec import encode, tombstone

log = structlog.get_logger(__name__)

_BYTES_PER_RECORD = 64
"""A snapshot of more bytes than this for each record since the last one is put off: writing them
must stay a small part of what the lane writes."""


class SnapshotWriter:
    """Takes a snapshot whenever a restore would have to read many records, and at the end.

    `followed` gives how far the lane follows logs that other stages write, by topic.
    """

    def __init__(
        self,
        settings: Settings,
        partition: int,
        *,
        state: LaneState,
        writer: LaneWriter,
        committer: Committer,
        followed: Callable[[], Mapping[str, int]],
        clock_ms: ClockMs,
    ) -> None:
        self._settings = settings
        self._partition = partition
        self._state = state
        self._writer = writer
        self._committer = committer
        self._followed = followed
        self._clock_ms = clock_ms
        self._taken_under = taken_under(state, settings)
        self._is_off = False
        self._topic = settings.topic(SNAPSHOTS.name)
        self._parts: frozenset[str] = frozenset()
        self._chunks: dict[int, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._known_records = 0
        self.state_bytes = 0
        self.taken = 0

    def open(self, restored: Restored) -> None:
        """Go on from what a restore found on the topic, once the lane has announced itself."""
        self._parts = restored.parts
        self._known_records = self._writer.tail_records - restored.tail_records
        if restored.snapshot is not None and IDS not in restored.refolded:
            self._chunks = {number: chunk for number, _, chunk in restored.snapshot.chunks}
        self.consider()

    def consider(self) -> None:
        """Take a snapshot if it is time for one; called after each commit."""
        due = max(self._settings.snapshot_records, self.state_bytes // _BYTES_PER_RECORD)
        ready = not self._is_off and self._task is None and self._writer.refusals_replaced
        if ready and self._unknown_records >= due:
            self._task = asyncio.create_task(self._take(), name="snapshot")
            self._task.add_done_callback(self._ended)

    async def close(self, timeout_s: float) -> None:
        """Take a last one, so that the next owner has next to nothing to read."""
        try:
            async with asyncio.timeout(timeout_s):
                if self._task is not None:
                    await asyncio.wait({self._task})
                if not self._is_off and self._unknown_records:
                    await self._take()
        except TimeoutError:
            log.warning("no last snapshot in time", partition=self._partition)
        except LaneLost:
            return
        except CommitRefused as refused:
            log.warning("no last snapshot", partition=self._partition, reason=str(refused))

    def cancel(self) -> None:
        """Take none any more."""
        self._is_off = True
        if self._task is not None:
            self._task.cancel()

    @property
    def _unknown_records(self) -> int:
        """How many records a restore would have to read behind the newest snapshot."""
        return self._writer.tail_records - self._known_records

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, LaneLost) or error is None:
            return
        # The lane is right without it; only a restore has more to read.
        log.error("a snapshot failed", partition=self._partition, exc_info=error)
        self._is_off = True

    async def _take(self) -> None:
        captured = await self._cut() if self._writer.refusals_replaced else None
        if captured is None:
            return
        parts = await asyncio.to_thread(state_parts, captured)
        chunks = dict(self._chunks)
        written = {state_part(number): part for number, part in enumerate(parts)}
        for chunk in captured.unwritten:
            written[ids_part(chunk.number)] = chunk.data
            chunks[chunk.number] = digest(chunk.data)
        header = SnapshotHeader(
            logs=captured.logs,
            state_parts=len(parts),
            state_digest=digest(b"".join(parts)),
            chunks=tuple((number, left, chunks[number]) for number, left in captured.chunks),
            **self._taken_under,
        )
        kept = {HEADER, *written, *(ids_part(number) for number, _ in captured.chunks)}
        await self._committer.submit(self._records(header, written, self._parts - kept))
        self.taken += 1
        self._parts = frozenset(kept)
        self._chunks = {number: chunks[number] for number, _ in captured.chunks}
        self._state.seen.mark_written(self._chunks)
        self._known_records = captured.tail_records
        self.state_bytes = sum(map(len, parts))

    def _cut(self) -> asyncio.Future[Captured | None]:
        """Give what is to be written, once all of it is committed; `None` if it cannot be exact."""
        captured: asyncio.Future[Captured | None] = asyncio.get_running_loop().create_future()
        ahead = self._state.folds.state(before_commit=True)
        followed = dict(self._followed())
        refusals = self._writer.refusals

        def reached(mark: Outcome) -> None:
            if captured.done():  # whoever waited has been cancelled
                return
            if isinstance(mark, MillstreamError) or self._writer.refusals != refusals:
                # What was refused is in the copied states, and not on the log before the mark.
                captured.set_result(None)
            else:
                captured.set_result(self._captured(ahead, followed))

        self._committer.submit((), hear=reached)
        return captured

    def _captured(self, ahead: dict[str, Any], followed: dict[str, int]) -> Captured:
        seen = self._state.seen
        unwritten = seen.unwritten()  # first: it settles the places that the state's gaps are of
        return Captured(
            entries=ahead | self._state.folds.state(before_commit=False),
            chunks=seen.chunks,
            unwritten=unwritten,
            logs={**self._writer.next_offsets, **followed},
            tail_records=self._writer.tail_records,
        )

    def _records(
        self, header: SnapshotHeader, written: Mapping[str, bytes], stale: frozenset[str]
    ) -> list[Outgoing]:
        stage, at_ms = self._state.stage, self._clock_ms()

        def outgoing(part: str, **content: Any) -> Outgoing:
            event = LaneSnapshot(
                stage=stage,
                partition=self._partition,
                generation=self._state.generation,
                at_ms=at_ms,
                part=part,
                **content,
            )
            return Outgoing(self._topic, self._partition, encode(event, source=self._writer.source))

        return [
            *(
                Outgoing(self._topic, self._partition, tombstone(compound_key(stage, part)))
                for part in sorted(stale)
            ),
            *(outgoing(part, data=base64.b64encode(data)) for part, data in written.items()),
            outgoing(HEADER, header=header),
        ]
