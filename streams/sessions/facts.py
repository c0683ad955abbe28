"""What a view has of a session, as it came from each topic, and what that makes of the session.

The topics are read side by side, so that one may be ahead of another: nothing here depends on which
was heard first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from pydantic import Field

from millstream.agents.sessions.manager import SessionCheckpoint, SessionInfo, SessionStats
from millstream.schemas.base import Count, EpochMs, Frozen
from millstream.schemas.events import CheckpointSaved, ResultStatus, SessionUpdated
from millstream.schemas.sessions.commands import SessionTtl
from millstream.schemas.sessions.states import SessionState

__all__ = ["Facts", "KeptCheckpoint", "Turned", "checkpoints_of", "stats_of"]


@dataclass(frozen=True, slots=True)
class Turned:
    """A session's newest turn, by its newest checkpoint."""

    turn: int
    at_ms: int
    request_id: str


class KeptCheckpoint(Frozen):
    """A checkpoint without what it holds; its record stands at `offset`."""

    checkpoint_id: str
    turn: Count
    offset: Count
    at_ms: EpochMs
    request_id: str
    size_bytes: Count
    parent_id: str | None = Field(default=None)
    renewed_ms: EpochMs | None = Field(default=None)

    @classmethod
    def of(cls, event: CheckpointSaved, offset: int) -> Self:
        """Take what is kept of a checkpoint's record."""
        return cls(
            checkpoint_id=event.checkpoint_id,
            turn=event.turn,
            offset=offset,
            at_ms=event.at_ms,
            request_id=event.request_id,
            size_bytes=len(event.data),
            parent_id=event.parent_id,
            renewed_ms=event.renewed_ms,
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """A session's newest checkpoint, head and state, so far as they are known.

    `began_ms` is when its first turn was. `ended` is the request whose result had the `status`.
    """

    turned: Turned | None = None
    began_ms: int | None = None
    head: SessionUpdated | None = None
    state: SessionState | None = None
    status: ResultStatus | None = None
    ended: str | None = None

    @property
    def created_at_ms(self) -> int | None:
        """When it was created, `None`: not known."""
        if self.state is not None:
            return self.state.created_at_ms
        return self.began_ms if self.head is None else self.head.created_at_ms

    @property
    def is_session(self) -> bool:
        """Whether there is a session: more than a result that came before its checkpoint."""
        if self.state is not None and self.state.state == "deleted":
            return False
        return not (self.turned is None and self.head is None and self.state is None)

    def info(self, tenant: str, user_id: str, session_id: str) -> SessionInfo | None:
        """Give the session as it is shown, `None` if there is none."""
        if not self.is_session:
            return None
        turned, head, state = self._newest(), self.head, self.state
        at_ms = max(
            0 if self.turned is None else self.turned.at_ms,
            0 if head is None else head.at_ms,
        )
        info = SessionInfo(
            tenant=tenant,
            user_id=user_id,
            session_id=session_id,
            turn=0 if turned is None else turned.turn,
            updated_at_ms=at_ms if state is None else max(at_ms, state.active_at_ms),
            last_request_id=None if turned is None else turned.request_id,
            created_at_ms=self.created_at_ms,
            last_status=self.status,
            last_ended_request_id=self.ended,
            since_ms=self.created_at_ms,
            ttl=SessionTtl(),
        )
        if head is not None:
            info = replace(
                info,
                template=head.template,
                checkpoint_id=head.checkpoint_id,
                checkpoint_bytes=head.checkpoint_bytes,
                cost_micros=head.cost_micros,
            )
        if state is not None:
            info = replace(
                info,
                state=state.state,
                revision=state.revision,
                since_ms=state.since_ms,
                ttl=state.ttl,
                expires_at_ms=state.due_ms(at_ms),
                metadata=state.metadata,
            )
        return info

    def _newest(self) -> Turned | None:
        """Give the newest turn: a restore makes one without a checkpoint of its own."""
        head, turned = self.head, self.turned
        if head is None or (turned is not None and turned.turn > head.turn):
            return turned
        return Turned(head.turn, head.at_ms, head.request_id)


def checkpoints_of(
    kept: Sequence[KeptCheckpoint], facts: Facts, *, since_ms: int
) -> tuple[SessionCheckpoint, ...]:
    """Give the checkpoints of a session that the log still has, the newest first.

    It has those from `since_ms` on. `kept` rises by offset. What stands above the head's line of
    parents was left by a restore.
    """
    if not facts.is_session:
        return ()
    by_offset = {one.offset: one for one in kept if (one.renewed_ms or one.at_ms) >= since_ms}
    # A copy of one stands behind it, and in its place once that is gone.
    first = {one.checkpoint_id: one for one in reversed(by_offset.values())}
    alive = sorted(first.values(), key=lambda one: one.offset)
    names: dict[str, list[str]] = {}
    named = () if facts.state is None else facts.state.names
    for name in named:
        names.setdefault(name.checkpoint_id, []).append(name.name)
    head = None if facts.head is None else facts.head.checkpoint_id
    if head is None and alive:
        head = alive[-1].checkpoint_id
    line = _line(alive, head)
    lowest = min((one.offset for one in alive if one.checkpoint_id in line), default=None)
    shown = [
        SessionCheckpoint(
            checkpoint_id=one.checkpoint_id,
            turn=one.turn,
            offset=one.offset,
            names=tuple(names.get(one.checkpoint_id, ())),
            at_ms=one.at_ms,
            request_id=one.request_id,
            checkpoint_bytes=one.size_bytes,
            is_head=one.checkpoint_id == head,
            left=lowest is not None and one.offset > lowest and one.checkpoint_id not in line,
        )
        for one in alive
    ]
    known = {one.checkpoint_id for one in kept}
    unseen = {one.checkpoint_id: one for one in named if one.checkpoint_id not in known}
    shown += [
        SessionCheckpoint(
            checkpoint_id=one.checkpoint_id,
            turn=one.turn,
            offset=one.offset_min,
            names=tuple(names[one.checkpoint_id]),
            is_head=one.checkpoint_id == head,
        )
        for one in unseen.values()
    ]
    return tuple(sorted(shown, key=lambda one: one.offset, reverse=True))


def _line(alive: Sequence[KeptCheckpoint], head: str | None) -> set[str]:
    """Give the ids of the head's checkpoint and of those that it came from."""
    parents = {one.checkpoint_id: one.parent_id for one in alive}
    line: set[str] = set()
    while head is not None and head in parents and head not in line:
        line.add(head)
        head = parents[head]
    return line


def stats_of(sessions: Iterable[SessionInfo], so_far: SessionStats | None = None) -> SessionStats:
    """Add up sessions, to what was added up before."""
    sums = so_far or SessionStats()
    by_state = {"open": sums.open, "closed": sums.closed, "expired": sums.expired}
    turns, size, cost = sums.turns, sums.checkpoint_bytes, sums.cost_micros
    oldest, newest = sums.oldest_at_ms, sums.newest_at_ms
    for one in sessions:
        by_state[one.state] += 1
        turns += one.turn
        size += one.checkpoint_bytes or 0
        cost += one.cost_micros
        created = one.updated_at_ms if one.created_at_ms is None else one.created_at_ms
        oldest = created if oldest is None else min(oldest, created)
        newest = one.updated_at_ms if newest is None else max(newest, one.updated_at_ms)
    return SessionStats(
        **by_state,
        turns=turns,
        checkpoint_bytes=size,
        cost_micros=cost,
        oldest_at_ms=oldest,
        newest_at_ms=newest,
    )
