"""What each session is beside its conversation, by its newest record."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from millstream.schemas.events import SessionUpdated
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import SESSION_STATES
from millstream.streams.lane.state.folds import Begin, Fold, Source
from millstream.streams.wire.keys import SessionKey

__all__ = ["SessionStates", "due_ms"]


class SessionStates:
    """The states of a lane's sessions, the least recently changed first: a fold.

    It is ahead of commits: a request that comes while a session is closed must find it so.
    No snapshot holds it: `session-states` is compacted, and read whole.
    """

    def __init__(self) -> None:
        self._states: OrderedDict[SessionKey, SessionState] = OrderedDict()

    def as_fold(self) -> Fold:
        """Give what the list is told of it."""
        follows = Source(SESSION_STATES, Begin.WHOLE, follows_another=lambda one: one.revision > 1)
        return Fold(
            name="session_states",
            topics=(follows,),
            fold={SessionState: self.fold},
            canonical=self._canonical,
            before_commit=True,
        )

    def fold(self, state: SessionState) -> None:
        """Take in what a session is from now on."""
        key = (state.tenant, state.user_id, state.session_id)
        self._states[key] = state
        self._states.move_to_end(key)
        # Its record is gone, or about to be.
        since_ms = state.at_ms - (SESSION_STATES.retention_ms or 0)
        while next(iter(self._states.values())).at_ms < since_ms:
            self._states.popitem(last=False)

    def get(self, session: SessionKey) -> SessionState | None:
        """Give what a session is; `None` for one that nobody created or changed."""
        return self._states.get(session)

    def of_user(self, tenant: str, user_id: str) -> list[SessionState]:
        """Give those of a user, the least recently changed first."""
        whose = (tenant, user_id)
        return [state for key, state in self._states.items() if key[:2] == whose]

    def with_ttl(self) -> list[SessionState]:
        """Give those that are open and may expire."""
        return [
            state
            for state in self._states.values()
            if state.state == "open" and (state.ttl.idle_s or state.ttl.total_s)
        ]

    def _canonical(self) -> Any:
        return [self._states[key] for key in sorted(self._states)]


def due_ms(state: SessionState, head: SessionUpdated | None) -> int | None:
    """Give when a session expires if nothing happens to it any more, `None` if it does not."""
    return state.due_ms(0 if head is None else head.at_ms)
