"""The session view in memory: the twin of the one in Redis, for tests and single processes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from millstream.agents.sessions.manager import (
    ANY_SESSION,
    SessionCheckpoint,
    SessionFilter,
    SessionInfo,
    SessionOrder,
    SessionPage,
    SessionStats,
    StoredCheckpoint,
)
from millstream.schemas.events import AgentResult, CheckpointSaved, SessionUpdated
from millstream.schemas.ports import ClockMs
from millstream.schemas.sessions.states import SessionState
from millstream.streams.sessions.facts import (
    Facts,
    KeptCheckpoint,
    Turned,
    checkpoints_of,
    stats_of,
)
from millstream.streams.sessions.paging import Cursors, SessionLimits, bounds, place_of

_User = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Kept:
    facts: Facts = field(default_factory=Facts)
    expires_at_ms: int = 0
    written_ms: int = -1
    place_ms: int | None = None
    checkpoint: StoredCheckpoint | None = None
    checkpoint_expires_at_ms: int = 0
    head_offset: int = -1
    status_offset: int = -1
    checkpoints: tuple[KeptCheckpoint, ...] = ()


class MemorySessionStore:
    """Sessions in a dict; `clock_ms` decides what has expired."""

    def __init__(self, clock_ms: ClockMs, limits: SessionLimits | None = None) -> None:
        self._clock_ms = clock_ms
        self._limits = limits or SessionLimits()
        self._users: dict[_User, dict[str, _Kept]] = {}

    async def put_checkpoint(self, event: CheckpointSaved, offset: int) -> bool:
        """Keep a checkpoint unless one of the same or a higher offset is kept."""
        kept = self._of(event)
        if kept is None:
            return False
        entries = {one.offset: one for one in (*kept.checkpoints, KeptCheckpoint.of(event, offset))}
        newest = sorted(entries.values(), key=lambda one: one.offset)
        newest = newest[-self._limits.checkpoints_per_session_max :]
        kept = replace(kept, checkpoints=tuple(newest))
        if event.turn == 1:
            kept = replace(kept, facts=replace(kept.facts, began_ms=event.at_ms))
        if kept.checkpoint is not None and kept.checkpoint.offset >= offset:
            self._keep(event, kept)
            return False
        facts = replace(
            kept.facts,
            turned=Turned(event.turn, event.at_ms, event.request_id),
        )
        self._keep(
            event,
            replace(
                kept,
                facts=facts,
                checkpoint=StoredCheckpoint(event, offset),
                checkpoint_expires_at_ms=self._clock_ms() + self._limits.checkpoint_ttl_s * 1000,
            ),
        )
        return True

    async def note_result(self, event: AgentResult, offset: int) -> bool:
        """Keep a result's status and request unless one of the same or a higher offset is kept."""
        kept = self._of(event)
        if kept is None or kept.status_offset >= offset:
            return False
        facts = replace(kept.facts, status=event.status, ended=event.request_id)
        self._keep(event, replace(kept, facts=facts, status_offset=offset))
        return True

    async def put_head(self, event: SessionUpdated, offset: int) -> bool:
        """Keep a session's head unless one of the same or a higher offset is kept."""
        kept = self._of(event)
        if kept is None or kept.head_offset >= offset:
            return False
        facts = replace(kept.facts, head=event)
        self._keep(event, replace(kept, facts=facts, head_offset=offset))
        return True

    async def put_state(self, event: SessionState) -> bool:
        """Keep what a session is, unless the same or a higher revision is kept."""
        kept = self._alive((event.tenant, event.user_id)).get(event.session_id) or _Kept()
        before = kept.facts.state
        if before is not None:
            if (before.created_at_ms, before.revision) >= (event.created_at_ms, event.revision):
                return False
            if before.state == "deleted":
                kept = _Kept()
        if event.state == "deleted":
            kept = _Kept()
        self._keep(event, replace(kept, facts=replace(kept.facts, state=event)))
        return True

    async def get_checkpoint(
        self, tenant: str, user_id: str, session_id: str
    ) -> StoredCheckpoint | None:
        """Give the newest checkpoint that is kept."""
        kept = self._alive((tenant, user_id)).get(session_id)
        if kept is None or kept.checkpoint_expires_at_ms <= self._clock_ms():
            return None
        return kept.checkpoint

    async def get(self, tenant: str, user_id: str, session_id: str) -> SessionInfo | None:
        """Give a session."""
        kept = self._alive((tenant, user_id)).get(session_id)
        return None if kept is None else kept.facts.info(tenant, user_id, session_id)

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
        """Give up to `limit` of a user's sessions."""
        cursors = Cursors(tenant, user_id, order, wanted)
        bound = cursors.place(after)
        first, behind = bounds(wanted)
        places: dict[str, SessionInfo] = {}
        for session_id, kept in self._alive((tenant, user_id)).items():
            info = kept.facts.info(tenant, user_id, session_id)
            if info is None or kept.place_ms is None or not wanted.passes(info):
                continue
            place = place_of(kept.place_ms, session_id)
            if (first is None or place >= first) and (behind is None or place < behind):
                places[place] = info
        found = sorted(places, reverse=order == "newest")
        if bound is not None:
            found = [
                place for place in found if (place < bound if order == "newest" else place > bound)
            ]
        page = found[:limit]
        following = cursors.at(page[-1]) if len(found) > limit else None
        return SessionPage(tuple(places[place] for place in page), following)

    async def checkpoints(
        self, tenant: str, user_id: str, session_id: str
    ) -> tuple[SessionCheckpoint, ...]:
        """Give a session's checkpoints that the log still has, the newest first."""
        kept = self._alive((tenant, user_id)).get(session_id)
        if kept is None:
            return ()
        return checkpoints_of(
            kept.checkpoints, kept.facts, since_ms=self._limits.since_ms(self._clock_ms())
        )

    async def stats(self, tenant: str, user_id: str) -> SessionStats:
        """Add up a user's sessions."""
        return self._stats((tenant, user_id), SessionStats())

    async def stats_of_all(self) -> SessionStats:
        """Add up everybody's sessions."""
        sums = SessionStats()
        for user in self._users:
            sums = self._stats(user, sums)
        return sums

    async def lacks(self) -> str | None:
        """Give `None`: it has all that it was given."""
        return None

    def _stats(self, user: _User, so_far: SessionStats) -> SessionStats:
        infos = (kept.facts.info(*user, name) for name, kept in self._alive(user).items())
        return stats_of((info for info in infos if info is not None), so_far)

    def _of(self, event: CheckpointSaved | AgentResult | SessionUpdated) -> _Kept | None:
        """Give what is kept of an event's session, `None` if it was deleted."""
        kept = self._alive((event.tenant, event.user_id)).get(event.session_id) or _Kept()
        state = kept.facts.state
        return None if state is not None and state.state == "deleted" else kept

    def _keep(
        self, event: CheckpointSaved | AgentResult | SessionUpdated | SessionState, kept: _Kept
    ) -> None:
        sessions = self._users.setdefault((event.tenant, event.user_id), {})
        kept = replace(kept, expires_at_ms=self._clock_ms() + self._limits.ttl_s * 1000)
        if kept.facts.is_session and not isinstance(event, AgentResult):
            created = kept.facts.created_at_ms
            unknown = event.at_ms if kept.place_ms is None else kept.place_ms
            kept = replace(
                kept,
                written_ms=max(kept.written_ms, event.at_ms),
                place_ms=unknown if created is None else created,
            )
        sessions[event.session_id] = kept
        if len(sessions) <= self._limits.sessions_per_user_max:
            return
        listed = [
            (one.written_ms, session_id)
            for session_id, one in sessions.items()
            if one.place_ms is not None
        ]
        for _, session_id in sorted(listed)[: -self._limits.sessions_per_user_max]:
            del sessions[session_id]

    def _alive(self, user: _User) -> dict[str, _Kept]:
        now_ms = self._clock_ms()
        sessions = self._users.get(user, {})
        for session_id in [key for key, kept in sessions.items() if kept.expires_at_ms <= now_ms]:
            del sessions[session_id]
        return sessions
