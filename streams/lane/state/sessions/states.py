"""What each session is beside its conversation, by its newest record: of those that are in use."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import SESSION_STATES
from millstream.streams.lane.state.folds import Begin, Fold, SnapshotBody, Source
from millstream.streams.lane.state.sessions.recent import Recent
from millstream.streams.wire.keys import SessionKey, session_key

__all__ = ["SessionStates"]


class SessionStates:
    """The states of a lane's sessions that were used last: a fold.

    It is ahead of commits: a request that comes while a session is closed must find it so. One that
    is not here may stand on the log all the same: `SessionPlaces` knows where.
    """

    def __init__(self, most: int) -> None:
        self._states: Recent[SessionState] = Recent(most)

    def as_fold(self) -> Fold:
        """Give what the list is told of it."""
        return Fold(
            name="session_states",
            topics=(Source(SESSION_STATES, Begin.LOG),),
            fold={SessionState: self.remember},
            place={SessionState: self._stands},
            entries=("session_states",),
            state=lambda: {"session_states": self._states.values()},
            load=self._load,
            canonical=lambda: None,  # which of them are in memory decides nothing
            before_commit=True,
        )

    def __contains__(self, session: object) -> bool:
        """Tell whether a session's state is in memory."""
        return session in self._states

    def fold(self, state: SessionState) -> None:
        """Take in what a session is from now on, and what is about to be committed."""
        self._states.put(session_key(state), state, ahead=True)

    def remember(self, state: SessionState) -> None:
        """Take in what a session is by the log."""
        self._states.put(session_key(state), state)

    def get(self, session: SessionKey) -> SessionState | None:
        """Give what a session is, `None` where it is not in memory."""
        return self._states.get(session)

    def held(self, sessions: Iterable[SessionKey]) -> AbstractContextManager[None]:
        """Keep these in memory until the end."""
        return self._states.held(sessions)

    def of_user(self, tenant: str, user_id: str) -> list[SessionKey]:
        """Give the sessions of a user whose states are in memory."""
        return [key for key in self._states if key[:2] == (tenant, user_id)]

    def _stands(self, state: SessionState, _offset: int) -> None:
        self._states.committed(session_key(state), state)

    def _load(self, body: SnapshotBody) -> None:
        for one in body.entries["session_states"]:
            self.remember(SessionState.model_validate(one))
