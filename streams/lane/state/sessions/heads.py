"""Each session's newest committed checkpoint, by its head: of those sessions that are in use."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from millstream.schemas.events import SessionUpdated
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import SESSION_STATES, SESSIONS
from millstream.streams.lane.state.folds import Begin, Fold, SnapshotBody, Source
from millstream.streams.lane.state.sessions.recent import Recent
from millstream.streams.wire.keys import SessionKey, session_key

__all__ = ["SessionHeads"]


class SessionHeads:
    """The heads of a lane's sessions that were used last: a fold.

    One that is not here may stand on the log all the same: `SessionPlaces` knows where.
    """

    def __init__(self, most: int) -> None:
        self._heads: Recent[SessionUpdated] = Recent(most)

    def as_fold(self) -> Fold:
        """Give what the list is told of it."""
        return Fold(
            name="heads",
            topics=(Source(SESSIONS, Begin.LOG), Source(SESSION_STATES, Begin.LOG)),
            fold={SessionUpdated: self.move, SessionState: self._forget_deleted},
            place={SessionUpdated: self._stands},
            entries=("session_heads",),
            state=lambda: {"session_heads": self._heads.settled()},
            load=self._load,
            canonical=lambda: None,  # which of them are in memory decides nothing
        )

    def __contains__(self, session: object) -> bool:
        """Tell whether a session's head is in memory."""
        return session in self._heads

    def get(self, session: SessionKey) -> SessionUpdated | None:
        """Give a session's head, `None` where it is not in memory."""
        return self._heads.get(session)

    def move(self, head: SessionUpdated, *, ahead: bool = False) -> None:
        """Take in a session's head; `ahead`: it is about to be committed."""
        self._heads.put(session_key(head), head, ahead=ahead)

    def drop(self, session: SessionKey) -> None:
        """Forget a session's head."""
        self._heads.drop(session)

    def held(self, sessions: Iterable[SessionKey]) -> AbstractContextManager[None]:
        """Keep these in memory until the end."""
        return self._heads.held(sessions)

    def of_user(self, tenant: str, user_id: str) -> list[SessionKey]:
        """Give the sessions of a user whose heads are in memory."""
        return [key for key in self._heads if key[:2] == (tenant, user_id)]

    def _stands(self, head: SessionUpdated, _offset: int) -> None:
        self._heads.committed(session_key(head), head)

    def _forget_deleted(self, state: SessionState) -> None:
        if state.state == "deleted":
            self.drop(session_key(state))

    def _load(self, body: SnapshotBody) -> Any:
        for one in body.entries["session_heads"]:
            self.move(SessionUpdated.model_validate(one))
