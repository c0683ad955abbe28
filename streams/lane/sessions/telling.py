"""What is told of decisions on sessions: the answer to a command, and the event of a change."""

from __future__ import annotations

from typing import TypedDict

from millstream.schemas.base import Address
from millstream.schemas.ports import ClockMs
from millstream.schemas.reasons import reason_of
from millstream.schemas.sessions.commands import SessionCommand
from millstream.schemas.sessions.errors import SessionRefused
from millstream.schemas.sessions.states import SessionAnswered, SessionChanged, SessionState
from millstream.streams.lane.sessions.decisions import Decided, Session
from millstream.streams.lane.state.lane_state import LaneState

__all__ = ["SessionTelling", "changed"]


class _Told(TypedDict):
    session: SessionState | None
    turn: int
    expires_at_ms: int | None


class SessionTelling:
    """Makes answers to commands. The sessions that they are about are in memory."""

    def __init__(self, state: LaneState, clock_ms: ClockMs) -> None:
        self._state = state
        self._clock_ms = clock_ms

    def of(
        self,
        command: SessionCommand,
        first: Address,
        decided: Decided,
        *,
        sessions: int | None = None,
    ) -> SessionAnswered:
        """Give the answer to a command; `sessions` is how many one for all has changed."""
        refused: SessionRefused | None = decided.refused
        return SessionAnswered(
            tenant=command.tenant,
            user_id=command.user_id,
            at_ms=self._clock_ms(),
            command_id=command.command_id,
            operation=command.operation,
            session_id=command.session_id,
            refused=None if refused is None else reason_of(refused),
            source=first,
            sessions=sessions,
            asked=command.digest,
            **self._told(command.tenant, command.user_id, command.session_id),
        )

    def again(self, known: SessionAnswered, first: Address) -> SessionAnswered:
        """Give an answer again to a command that came again, with the session as it is now."""
        told = self._told(known.tenant, known.user_id, known.session_id)
        return known.model_copy(update={"source": first, **told})

    def _told(self, tenant: str, user_id: str, session_id: str | None) -> _Told:
        if session_id is None:
            return {"session": None, "turn": 0, "expires_at_ms": None}
        key = (tenant, user_id, session_id)
        head = self._state.heads.get(key)
        session = self._state.session_states.get(key)
        return {
            "session": session,
            "turn": 0 if head is None else head.turn,
            "expires_at_ms": None if session is None else self._state.due_ms(session),
        }


def changed(
    session: Session, decided: Decided, command: SessionCommand | None, *, at_ms: int
) -> SessionChanged:
    """Give the event of a change that was decided."""
    state, change = decided.state, decided.change
    assert state is not None and change is not None  # noqa: S101, PT018  whoever asks has looked
    head = decided.head or session.head
    return SessionChanged(
        tenant=state.tenant,
        user_id=state.user_id,
        session_id=state.session_id,
        at_ms=at_ms,
        change=change,
        state=state.state,
        revision=state.revision,
        turn=0 if head is None else head.turn,
        restored_turn=decided.restored_turn,
        command_id=None if command is None else command.command_id,
        by=None if command is None else command.by,
        why=None if command is None else command.why,
    )
