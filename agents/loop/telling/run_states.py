"""The states of a run, and which may follow which: one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

import structlog

from millstream.schemas.errors import MillstreamError
from millstream.schemas.events import ResultStatus

__all__ = [
    "ENDED",
    "TRANSITIONS",
    "IllegalTransition",
    "OnIllegal",
    "RunState",
    "check",
    "log_illegal",
    "raise_illegal",
    "state_after",
]

_log = structlog.get_logger(__name__)

RunState = Literal["idle", "running", "paused", "error", "stopped"]
"""`idle`: it waits for its next attempt. `running`: an attempt is under way. `paused`: it may not
go on until it is resumed. `error`: it ended without an answer. `stopped`: it ended, completed or
cancelled."""

TRANSITIONS: Final[Mapping[RunState, frozenset[RunState]]] = {
    "idle": frozenset({"running", "paused", "error", "stopped"}),
    "running": frozenset({"idle", "paused", "error", "stopped"}),
    "paused": frozenset({"idle", "error", "stopped"}),
    "error": frozenset(),
    "stopped": frozenset(),
}
"""The states that may follow each. A run begins as `idle`; a resumed one waits its turn again."""

ENDED: Final[frozenset[RunState]] = frozenset({"error", "stopped"})


class IllegalTransition(MillstreamError):
    """A run is to go from one state to another that may not follow it: a bug of Millstream."""

    code = "illegal_transition"


OnIllegal = Callable[[IllegalTransition], None]
"""Takes that a run went from a state to one that may not follow it: raises, or logs it."""


def raise_illegal(error: IllegalTransition) -> None:
    """Raise it."""
    raise error


def log_illegal(error: IllegalTransition) -> None:
    """Log it: what is told of a run is no reason to end its lane."""
    _log.error("a run's state is not what was thought", exc_info=error)


def check(before: RunState, after: RunState) -> None:
    """Raise `IllegalTransition` if `after` may not follow `before`."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(f"a run that is {before} cannot become {after}")


def state_after(status: ResultStatus) -> RunState:
    """Give the state of a run that ended so."""
    return "stopped" if status in {"completed", "cancelled"} else "error"
