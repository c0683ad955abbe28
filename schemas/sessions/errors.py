"""Why a request or a command is refused for the state of its session."""

from __future__ import annotations

from typing import Self

from millstream.schemas.errors import MillstreamError, Rejected, ServiceUnavailable

__all__ = [
    "CheckpointUnknown",
    "CommandIdReused",
    "NameTaken",
    "SessionBusy",
    "SessionClosed",
    "SessionDeleted",
    "SessionExists",
    "SessionExpired",
    "SessionInputInvalid",
    "SessionMovedOn",
    "SessionNotDue",
    "SessionOutcomeUnknown",
    "SessionRefused",
    "SessionUnknown",
    "refusal_of",
]


class SessionRefused(Rejected):
    """The session is not in a state in which what was asked can be done; nothing was done."""

    code = "session_refused"


class SessionUnknown(SessionRefused):
    """The user has no session of that id."""

    code = "session_unknown"

    @classmethod
    def of(cls, user_id: str, session_id: str) -> Self:
        """Give it in the words that all have for it."""
        return cls(f"user {user_id!r} has no session {session_id!r}; list those that there are")


class SessionExists(SessionRefused):
    """The user has a session of that id already."""

    code = "session_exists"


class SessionClosed(SessionRefused):
    """The session is closed: reopen it first."""

    code = "session_closed"


class SessionExpired(SessionRefused):
    """The session's time to live was over: reopen it, or begin another."""

    code = "session_expired"


class SessionDeleted(SessionRefused):
    """The session was deleted: begin another one, with another id."""

    code = "session_deleted"


class SessionMovedOn(SessionRefused):
    """The session's newest turn is not the one that the request expects: read it again."""

    code = "session_moved_on"


class SessionBusy(SessionRefused):
    """A run of the session is on, or waits: ask again once it has ended, or cancel it."""

    code = "session_busy"


class SessionNotDue(SessionRefused):
    """The session's time to live is not over."""

    code = "session_not_due"


class CheckpointUnknown(SessionRefused):
    """The session has no such checkpoint, or no longer."""

    code = "checkpoint_unknown"


class NameTaken(SessionRefused):
    """A checkpoint of the session has that name already, or it has too many of them."""

    code = "name_taken"


class SessionOutcomeUnknown(ServiceUnavailable):
    """Nobody answered in time: whether the command is carried out is not known.

    Sent again under `command_id`, it has no second effect. `is_published`: Kafka has acknowledged
    it; else it may stand on the log or not.
    """

    code = "session_outcome_unknown"

    def __init__(self, message: str, *, command_id: str, is_published: bool) -> None:
        super().__init__(message)
        self.command_id = command_id
        self.is_published = is_published


class CommandIdReused(SessionRefused):
    """The command's id was that of another one, which was decided; this one was not."""

    code = "command_id_reused"


class SessionInputInvalid(SessionRefused, ValueError):
    """What was given cannot be so, and nothing was sent; says which, and what to give."""

    code = "session_input_invalid"


_BY_CODE: dict[str, type[SessionRefused]] = {
    kind.code: kind
    for kind in (
        SessionUnknown,
        SessionExists,
        SessionClosed,
        SessionExpired,
        SessionDeleted,
        SessionMovedOn,
        SessionBusy,
        SessionNotDue,
        CheckpointUnknown,
        NameTaken,
    )
}


def refusal_of(code: str, message: str) -> MillstreamError:
    """Give the error that a reason's code and words were made of."""
    return _BY_CODE.get(code, SessionRefused)(message)
