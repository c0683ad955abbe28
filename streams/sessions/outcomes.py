"""What every command on sessions takes, and what it gives: the session as it left it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from millstream.schemas.base import FrozenDict
from millstream.schemas.sessions.commands import SessionCommand, SessionTtl
from millstream.schemas.sessions.states import LifecycleState, NamedCheckpoint, SessionAnswered

__all__ = ["Asked", "SessionOutcome", "outcome_of"]


class Asked(TypedDict, total=False):
    """What every command takes: who asks, for what reason, and the command's own id."""

    by: str | None
    why: str | None
    command_id: str | None


@dataclass(frozen=True, slots=True)
class SessionOutcome:
    """A session as a command left it.

    Attributes:
        state: `open`, `closed`, `expired` or `deleted`.
        turn: Its newest turn, 0 before the first.
        revision: Counts the records of its state, 0 while there is none.
        ttl: How long it lives.
        expires_at_ms: When it expires if it is used no more, `None`: it does not.
        metadata: What was said of it.
        names: Its checkpoints that have names.
        command_id: Sent again under this id, the command has no second effect.
    """

    tenant: str
    user_id: str
    session_id: str
    state: LifecycleState
    turn: int
    revision: int
    ttl: SessionTtl
    metadata: Mapping[str, str]
    names: tuple[NamedCheckpoint, ...]
    command_id: str
    expires_at_ms: int | None = None


def outcome_of(answer: SessionAnswered, command: SessionCommand) -> SessionOutcome:
    """Give what an answer says of the one session that its command was for."""
    state = answer.session
    return SessionOutcome(
        tenant=command.tenant,
        user_id=command.user_id,
        session_id=command.session_id or "",
        # A session of which nothing was ever said is open.
        state="open" if state is None else state.state,
        turn=answer.turn,
        revision=0 if state is None else state.revision,
        ttl=SessionTtl() if state is None else state.ttl,
        metadata=FrozenDict() if state is None else state.metadata,
        names=() if state is None else state.names,
        command_id=command.command_id,
        expires_at_ms=answer.expires_at_ms,
    )
