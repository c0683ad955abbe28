"""Sessions as a person or a run sees them: what is stored of each, and who may look at it.

The log is the record; a `SessionStore` is a view of it that may be empty, old or away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from millstream.schemas.events import AgentResult, CheckpointSaved, ResultStatus

__all__ = [
    "PAGE_SESSIONS_MAX",
    "SessionInfo",
    "SessionManager",
    "SessionPage",
    "SessionStore",
    "StoredCheckpoint",
]

PAGE_SESSIONS_MAX = 100


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """The newest checkpoint that the view has, and its record's offset at the home partition.

    Whoever resumes from it compares the offset with the session's head: the view may be behind.
    """

    event: CheckpointSaved
    offset: int


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """The head of a session; times in milliseconds since the epoch.

    `created_at_ms` is `None` where the view has not seen the first turn, `last_status` where it has
    not seen a result. `last_request_id` is the request of the newest checkpoint.
    """

    tenant: str
    user_id: str
    session_id: str
    turn: int
    updated_at_ms: int
    last_request_id: str
    created_at_ms: int | None = None
    last_status: ResultStatus | None = None


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some of a user's sessions, newest first; `after` asks for the next page, `None`: no more."""

    sessions: tuple[SessionInfo, ...]
    after: str | None


class SessionStore(Protocol):
    """A view of sessions; a call raises `ServiceUnavailable` where the store does not answer."""

    async def put_checkpoint(self, event: CheckpointSaved, offset: int) -> bool:
        """Keep a checkpoint unless one of the same or a higher offset is kept; tells whether."""
        ...

    async def note_result(self, event: AgentResult, offset: int) -> bool:
        """Keep a result's status, guarded as above; a session without a checkpoint has no head."""
        ...

    async def get_checkpoint(
        self, tenant: str, user_id: str, session_id: str
    ) -> StoredCheckpoint | None:
        """Give the newest checkpoint that is kept; `None` also for one that cannot be read."""
        ...

    async def get(self, tenant: str, user_id: str, session_id: str) -> SessionInfo | None:
        """Give a session's head."""
        ...

    async def list(
        self, tenant: str, user_id: str, *, limit: int, after: str | None = None
    ) -> SessionPage:
        """Give up to `limit` of a user's sessions; raises `ValueError` for a foreign `after`."""
        ...


class SessionManager:
    """Sessions by user: a session of another user does not exist."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    async def get(self, user_id: str, session_id: str, *, tenant: str) -> SessionInfo | None:
        """Give the head of one of the user's sessions; raises `ServiceUnavailable`."""
        return await self._store.get(tenant, user_id, session_id)

    async def list(
        self,
        user_id: str,
        *,
        tenant: str,
        limit: int = PAGE_SESSIONS_MAX,
        after: str | None = None,
    ) -> SessionPage:
        """Give a page of the user's sessions, newest first, of 1 to `PAGE_SESSIONS_MAX`.

        Raises `ValueError` for another limit or an `after` that no page gave, and
        `ServiceUnavailable`.
        """
        if not 1 <= limit <= PAGE_SESSIONS_MAX:
            message = f"limit is {limit}; give 1 to {PAGE_SESSIONS_MAX}"
            raise ValueError(message)
        return await self._store.list(tenant, user_id, limit=limit, after=after)
