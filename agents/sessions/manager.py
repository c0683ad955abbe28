"""Sessions as a person or a run sees them: what is stored of each, and who may look at it.

The log is the record; a `SessionStore` is a view of it that may be empty, old or away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from millstream.schemas.events import AgentResult, CheckpointSaved, ResultStatus, SessionUpdated
from millstream.schemas.sessions.commands import SessionTtl
from millstream.schemas.sessions.states import LifecycleState, SessionState

__all__ = [
    "ANY_SESSION",
    "PAGE_SESSIONS_MAX",
    "SessionCheckpoint",
    "SessionFilter",
    "SessionInfo",
    "SessionOrder",
    "SessionPage",
    "SessionStats",
    "SessionStore",
    "StoredCheckpoint",
]

PAGE_SESSIONS_MAX = 100

SessionOrder = Literal["newest", "oldest"]
"""By when sessions were created, which never changes: so no page skips or repeats a session."""


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """The newest checkpoint that the view has, and its record's offset at the home partition.

    Whoever resumes from it compares the offset with the session's head: the view may be behind.
    """

    event: CheckpointSaved
    offset: int


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as the view knows it; times in milliseconds since the epoch.

    `updated_at_ms` is when it was used last: by a turn, or created, opened or touched. `turn` is 0
    before its first one, and `last_request_id` the request of its newest checkpoint. The newest
    result is `last_status`, of the request `last_ended_request_id`: another one where that was
    rejected or failed, or its checkpoint was not heard of yet. `created_at_ms` is `None` where the
    view has not seen how it began, the two of the result where it has not seen one. `revision` is 0
    for a session that nobody created or changed: it is open.
    `since_ms` is since when it is in its state, and `expires_at_ms` when its time to live is over
    if it is used no more. `cost_micros` is the sum over its turns.
    """

    tenant: str
    user_id: str
    session_id: str
    turn: int
    updated_at_ms: int
    last_request_id: str | None
    created_at_ms: int | None = None
    last_status: ResultStatus | None = None
    state: LifecycleState = "open"
    revision: int = 0
    since_ms: int | None = None
    ttl: SessionTtl = field(default_factory=SessionTtl)
    expires_at_ms: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    checkpoint_id: str | None = None
    checkpoint_bytes: int | None = None
    cost_micros: int = 0
    last_ended_request_id: str | None = None


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some of a user's sessions; `after` asks for the next page, `None`: no more.

    A page may hold fewer than were asked for, or none, and still have an `after`: of a filter that
    few sessions pass, only so many are looked at for one page.
    """

    sessions: tuple[SessionInfo, ...]
    after: str | None


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions are wanted: those of which all that is given is true.

    `metadata` names keys and the values that they are to have. Times are in milliseconds since the
    epoch: from the first, and before the second.
    """

    state: LifecycleState | None = None
    template: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_from_ms: int | None = None
    created_before_ms: int | None = None
    used_from_ms: int | None = None
    used_before_ms: int | None = None

    def passes(self, session: SessionInfo) -> bool:
        """Tell whether a session is wanted."""
        return (
            self.state in {None, session.state}
            and self.template in {None, session.template}
            and all(session.metadata.get(key) == value for key, value in self.metadata.items())
            and _within(session.created_at_ms, self.created_from_ms, self.created_before_ms)
            and _within(session.updated_at_ms, self.used_from_ms, self.used_before_ms)
        )


ANY_SESSION: Final = SessionFilter()


@dataclass(frozen=True, slots=True)
class SessionCheckpoint:
    """A checkpoint of a session that the log still has.

    `at_ms`, `request_id` and `checkpoint_bytes` are `None` for one of which the view knows the name
    only. Its record stands at `offset` of the home partition, or behind it. The session `is_head`
    at one of them; those that a restore to an earlier one went back from are `left`.
    """

    checkpoint_id: str
    turn: int
    offset: int
    names: tuple[str, ...] = ()
    at_ms: int | None = None
    request_id: str | None = None
    checkpoint_bytes: int | None = None
    is_head: bool = False
    left: bool = False


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Sessions by state, and sums over all of them.

    `checkpoint_bytes` are those of their newest checkpoints. `oldest_at_ms` is when the first of
    them was created, `newest_at_ms` when one of them was used last; `None`: there is none.
    """

    open: int = 0
    closed: int = 0
    expired: int = 0
    turns: int = 0
    checkpoint_bytes: int = 0
    cost_micros: int = 0
    oldest_at_ms: int | None = None
    newest_at_ms: int | None = None


class SessionStore(Protocol):
    """A view of sessions; a call raises `ServiceUnavailable` where the store does not answer.

    What is put raises `ForeignKey` where somebody else's content stands in its place. A session
    that was deleted is forgotten, and takes nothing that comes late.
    """

    async def put_checkpoint(self, event: CheckpointSaved, offset: int) -> bool:
        """Keep a checkpoint unless one of the same or a higher offset is kept; tells whether."""
        ...

    async def note_result(self, event: AgentResult, offset: int) -> bool:
        """Keep a result's status and request, guarded as above; it makes no session."""
        ...

    async def put_head(self, event: SessionUpdated, offset: int) -> bool:
        """Keep a session's head, guarded by the offset as above."""
        ...

    async def put_state(self, event: SessionState) -> bool:
        """Keep what a session is, unless the same or a higher revision is kept; tells whether.

        A deleted one takes all that is kept of the session along.
        """
        ...

    async def get_checkpoint(
        self, tenant: str, user_id: str, session_id: str
    ) -> StoredCheckpoint | None:
        """Give the newest checkpoint that is kept; `None` also for one that cannot be read."""
        ...

    async def get(self, tenant: str, user_id: str, session_id: str) -> SessionInfo | None:
        """Give a session; `None` also for one that was deleted."""
        ...

    async def list(
        self,
        tenant: str,
        user_id: str,
        *,
        limit: int,
        after: str | None = None,
        order: SessionOrder = "newest",
        wanted: SessionFilter = ANY_SESSION,
    ) -> SessionPage:
        """Give up to `limit` of a user's sessions.

        Raises `ValueError` for an `after` that no page of this user, order and filter gave.
        """
        ...

    async def checkpoints(
        self, tenant: str, user_id: str, session_id: str
    ) -> tuple[SessionCheckpoint, ...]:
        """Give a session's checkpoints that the log still has, the newest first."""
        ...

    async def stats(self, tenant: str, user_id: str) -> SessionStats:
        """Add up a user's sessions."""
        ...

    async def stats_of_all(self) -> SessionStats:
        """Add up everybody's sessions."""
        ...

    async def lacks(self) -> str | None:
        """Say why sessions may lack, or not be as they are; `None`: the view has all.

        What came in the last moments is not told of.
        """
        ...


def _within(at_ms: int | None, from_ms: int | None, before_ms: int | None) -> bool:
    if from_ms is None and before_ms is None:
        return True
    return (
        at_ms is not None
        and (from_ms is None or at_ms >= from_ms)
        and (before_ms is None or at_ms < before_ms)
    )
