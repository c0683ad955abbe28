"""The session view in memory: the twin of the one in Redis, for tests and single processes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from millstream.agents.sessions.manager import SessionInfo, SessionPage, StoredCheckpoint
from millstream.schemas.events import AgentResult, CheckpointSaved, ResultStatus
from millstream.schemas.ports import ClockMs
from millstream.streams.sessions.paging import SessionLimits, page_of

_User = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Kept:
    expires_at_ms: int
    created_at_ms: int | None = None
    checkpoint: StoredCheckpoint | None = None
    status: ResultStatus | None = None
    status_offset: int = -1


class MemorySessionStore:
    """Sessions in a dict; `clock_ms` decides what has expired."""

    def __init__(self, clock_ms: ClockMs, limits: SessionLimits | None = None) -> None:
        self._clock_ms = clock_ms
        self._limits = limits or SessionLimits()
        self._users: dict[_User, dict[str, _Kept]] = {}

    async def put_checkpoint(self, event: CheckpointSaved, offset: int) -> bool:
        """Keep a checkpoint unless one of the same or a higher offset is kept."""
        kept = self._of(event)
        if kept.checkpoint is not None and kept.checkpoint.offset >= offset:
            return False
        created = event.at_ms if event.turn == 1 else kept.created_at_ms
        self._keep(
            event,
            replace(kept, created_at_ms=created, checkpoint=StoredCheckpoint(event, offset)),
        )
        return True

    async def note_result(self, event: AgentResult, offset: int) -> bool:
        """Keep a result's status unless one of the same or a higher offset is kept."""
        kept = self._of(event)
        if kept.status_offset >= offset:
            return False
        self._keep(event, replace(kept, status=event.status, status_offset=offset))
        return True

    async def get_checkpoint(
        self, tenant: str, user_id: str, session_id: str
    ) -> StoredCheckpoint | None:
        """Give the newest checkpoint that is kept."""
        kept = self._alive((tenant, user_id)).get(session_id)
        return kept.checkpoint if kept is not None else None

    async def get(self, tenant: str, user_id: str, session_id: str) -> SessionInfo | None:
        """Give a session's head."""
        kept = self._alive((tenant, user_id)).get(session_id)
        return _info(kept) if kept is not None else None

    async def list(
        self, tenant: str, user_id: str, *, limit: int, after: str | None = None
    ) -> SessionPage:
        """Give up to `limit` of a user's sessions, newest first."""
        alive = self._alive((tenant, user_id))
        positions = [
            (kept.checkpoint.event.at_ms, session_id)
            for session_id, kept in alive.items()
            if kept.checkpoint is not None
        ]
        page, following = page_of(positions, limit=limit, after=after)
        heads = (_info(alive[session_id]) for _, session_id in page)
        return SessionPage(tuple(head for head in heads if head is not None), following)

    def _of(self, event: CheckpointSaved | AgentResult) -> _Kept:
        alive = self._alive((event.tenant, event.user_id))
        return alive.get(event.session_id) or _Kept(expires_at_ms=0)

    def _keep(self, event: CheckpointSaved | AgentResult, kept: _Kept) -> None:
        sessions = self._users.setdefault((event.tenant, event.user_id), {})
        expires_at_ms = self._clock_ms() + self._limits.ttl_s * 1000
        sessions[event.session_id] = replace(kept, expires_at_ms=expires_at_ms)
        with_head = [
            (session.checkpoint.event.at_ms, session_id)
            for session_id, session in sessions.items()
            if session.checkpoint is not None
        ]
        for _, session_id in sorted(with_head)[: -self._limits.sessions_per_user_max]:
            del sessions[session_id]

    def _alive(self, user: _User) -> dict[str, _Kept]:
        now_ms = self._clock_ms()
        sessions = self._users.get(user, {})
        for session_id in [key for key, kept in sessions.items() if kept.expires_at_ms <= now_ms]:
            del sessions[session_id]
        return sessions


def _info(kept: _Kept) -> SessionInfo | None:
    if kept.checkpoint is None:
        return None
    event = kept.checkpoint.event
    return SessionInfo(
        tenant=event.tenant,
        user_id=event.user_id,
        session_id=event.session_id,
        turn=event.turn,
        updated_at_ms=event.at_ms,
        last_request_id=event.request_id,
        created_at_ms=kept.created_at_ms,
        last_status=kept.status,
    )
