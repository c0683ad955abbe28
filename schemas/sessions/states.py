"""What becomes of sessions, as the lane that owns their user's partition decides it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from millstream.schemas.base import (
    EPOCH_MS_MAX,
    Address,
    Count,
    EpochMs,
    Event,
    Few,
    Frozen,
    FrozenDict,
    Identifier,
    Metadata,
    Ordinal,
    Reason,
    compound_key,
)
from millstream.schemas.sessions.commands import SessionOperation, SessionTtl

__all__ = [
    "LifecycleState",
    "NamedCheckpoint",
    "SessionAnswered",
    "SessionBarrier",
    "SessionChange",
    "SessionChanged",
    "SessionState",
]

LifecycleState = Literal["open", "closed", "expired", "deleted"]

SessionChange = Literal[
    "created", "updated", "closed", "reopened", "expired", "deleted", "restored"
]


class NamedCheckpoint(Frozen):
    """A checkpoint that was given a name; its record stands at `offset_min` or behind."""

    name: Identifier
    checkpoint_id: str
    turn: Ordinal
    offset_min: Count


class SessionBarrier(Frozen):
    """What became of requests that had come when a session was closed or deleted.

    Those before `before_offset` of their topic, which the broker took by `until_ms`, are ended,
    however late they are read; but the request `lets_end` runs on, and where it `drains` all of
    them do. It stays when the session is opened again.
    """

    before_offset: Count
    until_ms: EpochMs
    cancels: bool = False
    drains: bool = False
    lets_end: Identifier | None = None


class SessionState(Event):
    """What a session is beside its conversation: its state, time to live, metadata and names.

    Kept compacted by session. A session that nobody created or changed has none: it is open.
    `revision` counts these records of the session. `since_ms` is since when it is in its state,
    `active_at_ms` when it was created, opened or touched last; its turns are in its head. A deleted
    session keeps this record for as long as a late request could come.
    """

    title: ClassVar[str] = "What a session is beside its conversation"

    type: Literal["session_state"] = "session_state"
    session_id: Identifier
    state: LifecycleState = "open"
    revision: Ordinal
    created_at_ms: EpochMs
    since_ms: EpochMs
    active_at_ms: EpochMs
    ttl: SessionTtl = SessionTtl()
    metadata: Metadata = Field(default_factory=FrozenDict)
    names: Annotated[tuple[NamedCheckpoint, ...], Few] = ()
    barrier: SessionBarrier | None = None

    @property
    def event_id(self) -> str:
        """Session and revision, and since when it exists."""
        return f"{self.session_id}:{self.created_at_ms}:{self.revision}"

    @property
    def record_key(self) -> str:
        """Tenant, user and session."""
        return compound_key(self.tenant, self.user_id, self.session_id)

    def due_ms(self, turned_ms: int = 0) -> int | None:
        """Give when it expires if it is used no more, `None` if it does not.

        `turned_ms` is when its newest turn was, in ms since the epoch, 0: there was none.
        """
        if self.state != "open":
            return None
        ends = []
        if self.ttl.idle_s is not None:
            ends.append(max(self.active_at_ms, turned_ms) + self.ttl.idle_s * 1000)
        if self.ttl.total_s is not None:
            ends.append(self.created_at_ms + self.ttl.total_s * 1000)
        return min(*ends, EPOCH_MS_MAX) if ends else None


class SessionChanged(Event):
    """A session was created, changed, closed, opened again, ended or taken back, and by whom.

    `by` and `why` are the command's own words; `command_id` is left out where nobody gave one: a
    time to live was over. `turn` is the session's newest turn; of a session that was `restored`
    it is the one that this made, and `restored_turn` the one that it goes on from.
    """

    title: ClassVar[str] = "A session was created, changed or ended"

    type: Literal["session_changed"] = "session_changed"
    session_id: Identifier
    change: SessionChange
    state: LifecycleState
    revision: Ordinal
    turn: Count = 0
    restored_turn: Count | None = None
    command_id: Identifier | None = None
    by: Identifier | None = None
    why: str | None = None

    @property
    def event_id(self) -> str:
        """Session, revision, change and when it was made."""
        return f"{self.session_id}:{self.revision}:{self.change}:{self.at_ms}"


class SessionAnswered(Event):
    """What became of a command on sessions, committed with its effect.

    `source` is where the command's record first stood. `refused` says why nothing was done.
    `session` is the session behind it, and `turn` its newest turn; a command for all sessions of a
    user tells how many `sessions` it was carried out on. `expires_at_ms` is when the session
    expires if it is used no more, left out where it does not. `asked` is a digest of what was
    asked: it tells the command from another one that was given its id.
    """

    title: ClassVar[str] = "What became of a command on sessions"

    type: Literal["session_answered"] = "session_answered"
    command_id: Identifier
    operation: SessionOperation
    session_id: Identifier | None = None
    refused: Reason | None = None
    session: SessionState | None = None
    turn: Count = 0
    sessions: Count | None = None
    expires_at_ms: EpochMs | None = None
    asked: str | None = None
    source: Address

    @property
    def event_id(self) -> str:
        """The command's id, and where it first stood."""
        return f"{self.command_id}:{self.source}"
