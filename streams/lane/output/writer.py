"""What leaves a lane: events to their topics in group commits, and the state that follows them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from aiokafka import TopicPartition

from millstream.schemas.base import Event
from millstream.schemas.errors import MillstreamError
from millstream.schemas.events import AgentResult, CheckpointSaved, SessionUpdated
from millstream.schemas.lane_events import StageRequest
from millstream.schemas.topics import (
    ATTEMPTS,
    CHECKPOINTS,
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    DEFERRED,
    HOLDS,
    JOURNAL,
    LANES,
    OBEYED,
    PARKED,
    RESERVATIONS,
    RESULTS,
    RUN_MIGRATION_ANSWERS,
    SESSION_ANSWERS,
    SESSION_EVENTS,
    SESSION_STATES,
    SESSIONS,
    SNAPSHOTS,
    TopicSpec,
)
from millstream.streams.broker.batches import Outgoing
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.output import outcomes
from millstream.streams.lane.output.checkpoints import CheckpointSource
from millstream.streams.lane.output.journal_log import JournalLog
from millstream.streams.lane.output.session_lookup import SessionLookup
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.transactions.committer import Committer, Outcome
from millstream.streams.wire.codec import Tombstone, encode, tombstone
from millstream.streams.wire.keys import session_key
from millstream.streams.wire.trace import Trace

Committed = asyncio.Future[tuple[int, ...]]
"""Done when its events are committed and folded: their offsets."""

_TOPIC_OF: dict[str, TopicSpec] = {
    spec.event.model_fields["type"].default: spec
    for spec in (
        RESULTS,
        DECISIONS,
        ATTEMPTS,
        RESERVATIONS,
        COSTS,
        JOURNAL,
        CHECKPOINTS,
        SESSIONS,
        SESSION_STATES,
        SESSION_EVENTS,
        SESSION_ANSWERS,
        PARKED,
        HOLDS,
        OBEYED,
        RUN_MIGRATION_ANSWERS,
        DEFERRED,
        LANES,
        DEAD_LETTERS,
    )
}


class LaneWriter:
    """The writing side of one lane. State changes when a commit has succeeded, and only then.

    `next_offsets` says for each log that a restore reads where the next record behind those that
    are folded can stand; `tail_records` counts the records committed to them.
    """

    def __init__(
        self,
        context: LaneContext,
        *,
        state: LaneState,
        committer: Committer,
        reader: PartitionReader,
    ) -> None:
        self._context = context
        self._stage = context.stage
        self._state = state
        self._committer = committer
        self._reader = reader
        self._where = context.at(CHECKPOINTS)
        self._checkpoints = CheckpointSource(
            reader=reader,
            partition=self._where,
            peek=context.services.peek_checkpoint,
            cached=context.services.checkpoints.of_lane(),
            on_altered=context.services.metrics.checkpoints_altered.inc,
        )
        self.sessions = SessionLookup(context, state=state, reader=reader)
        self.journals = JournalLog(reader, context.at(JOURNAL))
        self._checkpoints_floor = 0
        self._on_committed: Callable[[], None] = lambda: None
        self._ahead = state.folds.before_commit
        self._replacements = 0
        self.refusals = 0
        self.next_offsets: dict[str, int] = {}
        self.tail_records = 0
        namespace = context.settings.namespace
        self.source = f"/{namespace}/{context.stage.name}/{context.partition}"

    @property
    def places(self) -> tuple[TopicPartition, ...]:
        """All partitions that this lane's transactions write to."""
        following = () if self._stage.next is None else (self._stage.next,)
        return tuple(map(self._context.at, (*_TOPIC_OF.values(), SNAPSHOTS, *following)))

    def watch(self, on_committed: Callable[[], None]) -> None:
        """Have `on_committed` called whenever events are committed and folded."""
        self._on_committed = on_committed

    async def open(self, logs: Mapping[str, int]) -> None:
        """Learn where this lane's records will stand; `logs` are the ends of what was restored.

        It must begin nowhere behind an open transaction, whether it reads there or not: a producer
        of the same id would go on with it, and the next marker would end both alike. What a
        snapshot covers is not read, and may hang all the same.
        """
        self.next_offsets = dict(logs)
        ends = await self._reader.stable_high_watermarks(self.places)
        self._checkpoints_floor = ends[self._where]

    def submit(
        self,
        events: Sequence[Event | Tombstone],
        traceparent: Trace | None = None,
        *,
        lazy: bool = False,
    ) -> Committed:
        """Queue events that commit together and are then folded, in the order of submission.

        Whoever waits for it finds them folded. It raises `CommitRefused` if one is too large to be
        written, and `LaneLost`. `lazy`: they may wait for others to go with.
        """
        # A snapshot must find folded all that was committed before it, whoever waits for it.
        return self._committer.submit(
            self._outgoing(events, traceparent), lazy=lazy, hear=partial(self._settled, events)
        )

    async def commit(
        self, events: Sequence[Event | Tombstone], traceparent: Trace | None = None
    ) -> None:
        """Submit events and wait until they are committed and folded."""
        await self.submit(events, traceparent)

    async def replace(
        self, events: Sequence[Event | Tombstone], traceparent: Trace | None = None
    ) -> None:
        """Commit what takes the place of events that were refused."""
        committed = self.submit(events, traceparent)
        self._replacements += 1
        await committed

    @property
    def refusals_replaced(self) -> bool:
        """Whether all that was refused has been replaced: what is folded is on its way to a log."""
        return self.refusals == self._replacements

    def _settled(self, events: Sequence[Event | Tombstone], outcome: Outcome) -> None:
        if isinstance(outcome, MillstreamError):
            # Folded by what does not wait for commits, but not on the log, until replaced there.
            self.refusals += any(isinstance(event, self._ahead) for event in events)
            return
        for event, offset in zip(events, outcome, strict=True):
            if isinstance(event, Tombstone):
                continue
            self._state.apply(event, offset)
            log = self._topic_of(event).name
            if log in self.next_offsets:
                self.next_offsets[log] = max(self.next_offsets[log], offset + 1)
                self.tail_records += 1
            if isinstance(event, CheckpointSaved):
                self._checkpoints.keep(event)
                self._checkpoints_floor = max(self._checkpoints_floor, offset + 1)
        self._forget()
        self._on_committed()

    def _forget(self) -> None:
        now_ms = self._context.services.clock_ms()
        # What its last owner finished and did not acknowledge may be among what comes next.
        up_to_ms = self._state.decided_up_to_ms(now_ms)
        self._state.forget_before(up_to_ms - self._context.settings.dedup_window_s * 1000)
        forgotten_ms = self._state.seen.forgotten_ms
        if forgotten_ms is not None:
            window = self._context.services.metrics.dedup_window
            window.labels(self._stage.name, str(self._context.partition)).set(
                (now_ms - forgotten_ms) / 1000
            )

    def head_of(
        self, checkpoint: CheckpointSaved, before: SessionUpdated | None, result: AgentResult
    ) -> SessionUpdated:
        """Give the head of a session whose next checkpoint is about to be committed."""
        # A list of sessions is in the order of this time: it is to be that of the session's state.
        state = self._state.session_states.get(session_key(checkpoint))
        # Only this lane writes to its partition, so the record cannot stand before the floor.
        return outcomes.session_head(
            checkpoint,
            before,
            offset_min=self._checkpoints_floor,
            result=result,
            created_at_ms=None if state is None else state.created_at_ms,
        )

    def renewed_head(self, head: SessionUpdated, at_ms: int) -> SessionUpdated:
        """Give the head of a session whose checkpoint is about to be written anew."""
        moved = {"at_ms": at_ms, "checkpoint_offset_min": self._checkpoints_floor}
        return head.model_copy(update=moved)

    async def load_checkpoint(self, head: SessionUpdated) -> CheckpointSaved | None:
        """Give the checkpoint that a head names; `None` if it is older than the log keeps them.

        Such a session begins anew. Raises `CheckpointUnreadable`.
        """
        retention_ms = self._context.settings.retention.ms(CHECKPOINTS)
        age_ms = self._context.services.clock_ms() - head.at_ms
        if retention_ms is not None and age_ms > retention_ms:
            return None
        return await self._checkpoints.load(head)

    def close(self) -> None:
        """Forget the checkpoints that were kept for the lane's next runs."""
        self._checkpoints.close()

    def _outgoing(
        self, events: Sequence[Event | Tombstone], traceparent: Trace | None
    ) -> list[Outgoing]:
        return [
            Outgoing(
                self._context.settings.topic(spec.name),
                self._context.partition,
                tombstone(event.key)
                if isinstance(event, Tombstone)
                else encode(event, source=self.source, traceparent=traceparent),
                spec.record_bytes_max,
            )
            for event in events
            for spec in (self._topic_of(event),)
        ]

    def _topic_of(self, event: Any) -> TopicSpec:
        if isinstance(event, Tombstone):
            return event.topic
        if isinstance(event, StageRequest) and self._stage.next is not None:
            return self._stage.next
        return _TOPIC_OF[event.type]
