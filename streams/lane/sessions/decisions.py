"""What a command makes of a session, as the table of transitions says: a question, no change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from millstream.schemas.base import FrozenDict, next_ordinal
from millstream.schemas.events import CheckpointSaved, SessionUpdated
from millstream.schemas.sessions.commands import SessionCommand, SessionOperation, SessionTtl
from millstream.schemas.sessions.errors import (
    CheckpointUnknown,
    NameTaken,
    SessionBusy,
    SessionNotDue,
    SessionRefused,
    SessionUnknown,
)
from millstream.schemas.sessions.states import (
    LifecycleState,
    NamedCheckpoint,
    SessionBarrier,
    SessionChange,
    SessionState,
)
from millstream.schemas.sessions.transitions import TRANSITIONS, Before
from millstream.streams.wire.digests import digest_of
from millstream.streams.wire.keys import SessionKey

__all__ = ["NAMES_MAX", "Decided", "FoundCheckpoint", "Session", "closes_harder", "decide"]

NAMES_MAX: Final = 32
"""Checkpoints of one session that may have a name."""

_CHANGES: Final[dict[SessionOperation, SessionChange]] = {
    "create": "created",
    "update": "updated",
    "name_checkpoint": "updated",
    "close": "closed",
    "reopen": "reopened",
    "expire": "expired",
    "delete": "deleted",
    "restore": "restored",
}
"""What each operation is as an event; a touch is none."""

_ENDS: Final = frozenset({"close", "reopen", "expire", "delete"})
"""The operations that change nothing where the session is already what they would make it."""


@dataclass(frozen=True, slots=True)
class FoundCheckpoint:
    """A checkpoint of the session that a command means; its record stands at `offset`."""

    saved: CheckpointSaved
    offset: int


@dataclass(frozen=True, slots=True)
class Session:
    """A session as a command meets it.

    `is_on`: a run of it is under way or waits; `runs` is the request that has begun, if any. What
    came before `before_offset` of the requests' topic has been taken in, `until_ms` is when the
    broker took the last of it.
    """

    key: SessionKey
    state: SessionState | None = None
    head: SessionUpdated | None = None
    is_on: bool = False
    runs: str | None = None
    before_offset: int = 0
    until_ms: int = 0

    @property
    def before(self) -> Before:
        """Its row in the table of transitions."""
        if self.state is not None:
            return self.state.state
        return "open" if self.head is not None or self.is_on else "unknown"


@dataclass(frozen=True, slots=True)
class Decided:
    """What was decided: why nothing is done, or the session's new state, head and event.

    `state` is `None` where it stays as it is, `change` where that is no event.
    """

    refused: SessionRefused | None = None
    state: SessionState | None = None
    head: SessionUpdated | None = None
    change: SessionChange | None = None
    restored_turn: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def decide(
    command: SessionCommand,
    session: Session,
    *,
    at_ms: int,
    found: FoundCheckpoint | None = None,
) -> Decided:
    """Decide on a command that the broker took at `at_ms`.

    `found` is the checkpoint that it means, `None` if there is none.
    """
    outcome = TRANSITIONS[command.operation][session.before]
    if outcome is SessionUnknown:
        return Decided(refused=SessionUnknown.of(*session.key[1:]))
    if not isinstance(outcome, str):
        return Decided(refused=outcome(_words(command, session)))
    is_as_it_was = outcome == session.before and not closes_harder(command, session.state)
    if is_as_it_was and command.operation in _ENDS:
        return Decided()
    if (refused := _refused(command, session, at_ms, found)) is not None:
        return Decided(refused=refused)
    state = _changed(command, session, outcome, at_ms=at_ms, found=found)
    change = _CHANGES.get(command.operation)
    if command.operation != "restore":
        return Decided(state=state, change=change)
    assert found is not None and session.head is not None  # noqa: S101, PT018  else refused
    return Decided(
        state=state,
        head=_restored(session.head, found, at_ms=at_ms),
        change=change,
        restored_turn=found.saved.turn,
    )


def closes_harder(command: SessionCommand, state: SessionState | None) -> bool:
    """Tell whether a command closes a session without what it was closed with: that the rest runs.

    What still waits is rejected then: whoever closes it so wants no more of it to run.
    """
    if command.operation != "close" or command.drain or state is None or state.state != "closed":
        return False
    return state.barrier is not None and state.barrier.drains


def _refused(
    command: SessionCommand, session: Session, at_ms: int, found: FoundCheckpoint | None
) -> SessionRefused | None:
    """Say why a legal transition is not made now."""
    refused: SessionRefused | None = None
    match command.operation:
        case "expire" if command.if_due and not _is_due(session, at_ms):
            refused = SessionNotDue("the session has time to live left, or no limit to it")
        case "expire" | "restore" if session.is_on:
            refused = SessionBusy(_BUSY)
        case "restore" if found is None or session.head is None:
            refused = CheckpointUnknown(_no_checkpoint(command))
        case "name_checkpoint" if found is None:
            refused = CheckpointUnknown(_no_checkpoint(command))
        case "name_checkpoint" if found is not None:
            refused = _name_refused(command, session, found)
        case _:
            pass
    return refused


def _is_due(session: Session, at_ms: int) -> bool:
    if session.state is None:
        return False
    due = session.state.due_ms(0 if session.head is None else session.head.at_ms)
    return due is not None and due <= at_ms


def _name_refused(
    command: SessionCommand, session: Session, found: FoundCheckpoint
) -> SessionRefused | None:
    names = {} if session.state is None else {one.name: one for one in session.state.names}
    known = names.get(command.name or "")
    if known is not None and known.checkpoint_id != found.saved.checkpoint_id:
        return NameTaken(f"{command.name!r} names turn {known.turn} already; give another name")
    if known is None and len(names) >= NAMES_MAX:
        return NameTaken(f"{NAMES_MAX} checkpoints of the session have names already")
    return None


def _changed(
    command: SessionCommand,
    session: Session,
    outcome: LifecycleState,
    *,
    at_ms: int,
    found: FoundCheckpoint | None,
) -> SessionState:
    tenant, user_id, session_id = session.key
    before = session.state or SessionState(
        tenant=tenant,
        user_id=user_id,
        session_id=session_id,
        revision=1,
        created_at_ms=at_ms if session.head is None else session.head.created_at_ms,
        since_ms=at_ms if session.head is None else session.head.created_at_ms,
        active_at_ms=0,
    )
    changes: dict[str, Any] = {"at_ms": at_ms, "state": outcome}
    if session.state is not None:
        changes["revision"] = next_ordinal(before.revision)
    is_other = outcome != session.before
    if is_other:
        changes["since_ms"] = at_ms
    if outcome in {"closed", "deleted"} and (is_other or closes_harder(command, session.state)):
        changes["barrier"] = SessionBarrier(
            before_offset=session.before_offset,
            until_ms=max(at_ms, session.until_ms),
            cancels=outcome == "deleted",
            drains=command.drain,
            lets_end=None if outcome == "deleted" else session.runs,
        )
    if command.operation in {"create", "touch", "reopen", "restore"}:
        changes["active_at_ms"] = at_ms
    match command.operation:
        case "create" | "update":
            given = {"ttl": command.ttl, "metadata": command.metadata}
            changes |= {name: value for name, value in given.items() if value is not None}
        case "reopen" if _is_over_for_good(before, at_ms):
            # It would expire again at once.
            changes["ttl"] = SessionTtl(idle_s=before.ttl.idle_s)
        case "delete":  # nothing of what was said of it stays
            changes |= {"metadata": FrozenDict(), "names": (), "ttl": SessionTtl()}
        case "name_checkpoint" if found is not None:
            changes["names"] = _named(command, before, found)
        case _:
            pass
    return before.model_copy(update=changes)


def _is_over_for_good(state: SessionState, at_ms: int) -> bool:
    """Tell whether a session's time in all is over, whatever ended it."""
    total_s = state.ttl.total_s
    return total_s is not None and state.created_at_ms + total_s * 1000 <= at_ms


def _named(
    command: SessionCommand, before: SessionState, found: FoundCheckpoint
) -> tuple[NamedCheckpoint, ...]:
    named = NamedCheckpoint(
        name=command.name or "",
        checkpoint_id=found.saved.checkpoint_id,
        turn=found.saved.turn,
        offset_min=found.offset,
    )
    return (*(one for one in before.names if one.name != command.name), named)


def _restored(head: SessionUpdated, found: FoundCheckpoint, *, at_ms: int) -> SessionUpdated:
    saved = found.saved
    return head.model_copy(
        update={
            "at_ms": at_ms,
            "request_id": saved.request_id,
            "checkpoint_id": saved.checkpoint_id,
            "checkpoint_offset_min": found.offset,
            "checkpoint_digest": digest_of(saved),
            "checkpoint_bytes": len(saved.data),
            # A turn by itself: whoever knows the newest one only is to be told of it.
            "turn": next_ordinal(head.turn),
        }
    )


_BUSY = "a run of the session is under way or waits; wait for its result, or cancel it"


def _no_checkpoint(command: SessionCommand) -> str:
    which = f"named {command.name!r}" if command.turn is None else f"of turn {command.turn}"
    return f"the session has no checkpoint {which}, or no longer; list those that it has"


def _words(command: SessionCommand, session: Session) -> str:
    told = {
        "open": "the user has an open session of that id already",
        "closed": "the session is closed; reopen it first",
        "expired": "the session's time to live was over; reopen it first",
        "deleted": "the session was deleted; begin another one, with another id",
    }
    if command.operation == "create" and session.before in {"closed", "expired"}:
        return f"the user has a session of that id already, which is {session.before}"
    return told[session.before]
