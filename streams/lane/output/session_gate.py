"""What a request meets in its session: its state, and another turn than is believed newest.

And what a run leaves of it: a state that stays on the log for as long as the conversation does.
"""

from __future__ import annotations

from typing import Final

from millstream.schemas.base import next_ordinal
from millstream.schemas.events import ResolvedRequest, SessionUpdated
from millstream.schemas.reasons import reason_of
from millstream.schemas.sessions.errors import (
    SessionClosed,
    SessionDeleted,
    SessionExpired,
    SessionMovedOn,
    SessionRefused,
)
from millstream.schemas.sessions.states import LifecycleState, SessionState
from millstream.schemas.topics import HOUR_MS
from millstream.streams.lane.output.outcomes import CutOff

__all__ = ["ended_as", "kept_on", "moved_on", "turned_away"]

_WRITTEN_ANEW_AFTER_MS: Final = HOUR_MS
"""As long as a segment of the topic: less would not keep a state longer."""

_REFUSALS: Final[dict[str, SessionRefused]] = {
    "closed": SessionClosed("the session is closed; reopen it, or begin another one"),
    "expired": SessionExpired(
        "the session's time to live was over; reopen it, or begin another one"
    ),
    "deleted": SessionDeleted("the session was deleted; begin another one, with another id"),
}


def turned_away(
    state: SessionState | None, request_id: str, order: int, at_ms: int = 0
) -> CutOff | None:
    """Give how a request ends for the state of its session, `None` if it may run.

    `order` is the offset of its record, `at_ms` when the broker took it, 0 for one that is at hand:
    what came before the session was closed, and had not begun, ends however late its turn comes. On
    a log that was made anew offsets begin anew, and times do not.
    """
    if state is None:
        return None
    barrier = state.barrier
    if barrier is not None and order < barrier.before_offset and at_ms <= barrier.until_ms:
        if barrier.cancels:
            return CutOff("cancelled", reason_of(_REFUSALS["deleted"]))
        if barrier.drains or barrier.lets_end == request_id:
            return None
        return CutOff("rejected", reason_of(_REFUSALS["closed"]))
    return ended_as(state.state)


def ended_as(state: LifecycleState | None) -> CutOff | None:
    """Give how a request ends that comes to a session which is in a state, `None`: it may run."""
    refusal = None if state is None else _REFUSALS.get(state)
    return None if refusal is None else CutOff("rejected", reason_of(refusal))


def moved_on(request: ResolvedRequest, head: SessionUpdated | None) -> CutOff | None:
    """Give how a request ends whose session's newest turn is not the one that it expects."""
    expected, newest = request.expected_turn, head.turn if head is not None else 0
    if expected is None or expected == newest:
        return None
    error = SessionMovedOn(
        f"the session's newest turn is {newest}, not {expected}; read it, and ask again"
    )
    return CutOff("rejected", reason_of(error))


def kept_on(state: SessionState | None, now_ms: int) -> SessionState | None:
    """Give the state of a session that is used, to be written anew, `None` where it is fresh.

    The log keeps it for as long as a head, counted from its own record: a session that was created
    once and used each day would lose its time to live, metadata and names after a month.
    """
    if state is None or now_ms - state.at_ms < _WRITTEN_ANEW_AFTER_MS:
        return None
    return state.model_copy(update={"at_ms": now_ms, "revision": next_ordinal(state.revision)})
