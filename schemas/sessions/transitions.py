"""What each operation makes of a session in each state: the one table of legal transitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from millstream.schemas.sessions.commands import SessionOperation
from millstream.schemas.sessions.errors import (
    SessionClosed,
    SessionDeleted,
    SessionExists,
    SessionExpired,
    SessionRefused,
    SessionUnknown,
)
from millstream.schemas.sessions.states import LifecycleState

__all__ = ["STATES", "TRANSITIONS", "Before"]

Before = Literal["unknown", "open", "closed", "expired", "deleted"]
"""What a session can be before an operation; `unknown`: the user has none of that id."""

STATES: Final[tuple[Before, ...]] = ("unknown", "open", "closed", "expired", "deleted")

_Outcome = LifecycleState | type[SessionRefused]


def _of(*outcomes: _Outcome) -> Mapping[Before, _Outcome]:
    return dict(zip(STATES, outcomes, strict=True))


TRANSITIONS: Final[Mapping[SessionOperation, Mapping[Before, _Outcome]]] = {
    #                    unknown         open           closed         expired         deleted
    "create": _of("open", SessionExists, SessionExists, SessionExists, SessionDeleted),
    "touch": _of(SessionUnknown, "open", SessionClosed, SessionExpired, SessionDeleted),
    "update": _of(SessionUnknown, "open", "closed", SessionExpired, SessionDeleted),
    "close": _of(SessionUnknown, "closed", "closed", SessionExpired, SessionDeleted),
    "reopen": _of(SessionUnknown, "open", "open", "open", SessionDeleted),
    "expire": _of(SessionUnknown, "expired", SessionClosed, "expired", SessionDeleted),
    "delete": _of(SessionUnknown, "deleted", "deleted", "deleted", "deleted"),
    "name_checkpoint": _of(SessionUnknown, "open", "closed", SessionExpired, SessionDeleted),
    "restore": _of(SessionUnknown, "open", SessionClosed, SessionExpired, SessionDeleted),
}
"""By operation, then by the state before: the state behind it, or why it is refused.

Where the state stays what it is, `close`, `reopen`, `expire` and `delete` change nothing; but
`close` without `drain` of a session that was closed with it rejects what still waits.
"""
