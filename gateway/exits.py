"""How `millstream` ends: exit codes that scripts can use."""

from __future__ import annotations

import signal
from enum import IntEnum
from typing import TYPE_CHECKING, assert_never

from millstream.schemas.errors import (
    MillstreamError,
    Misconfigured,
    NoSuchPartition,
    Rejected,
    ServiceUnavailable,
    UnknownTemplate,
)

if TYPE_CHECKING:
    from millstream.schemas.events import AgentResult

__all__ = [
    "EXIT_CODES",
    "EXIT_CODES_HELP",
    "ExitCode",
    "Stopped",
    "exit_code_of_error",
    "exit_code_of_result",
]


class ExitCode(IntEnum):
    """The exit codes of all commands; `EXIT_CODES` says what each means."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REJECTED = 3
    NOT_COMPLETED = 4
    TIMED_OUT = 5
    UNAVAILABLE = 6
    DRIFT = 7
    NOTHING_THERE = 8
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_CODES = {
    ExitCode.OK: "done; of `submit`: the request completed",
    ExitCode.FAILED: (
        "something is wrong that has no code of its own, or the answer to a question was no"
    ),
    ExitCode.USAGE: "wrong usage: an option or argument is missing, or cannot be so",
    ExitCode.REJECTED: (
        "the request or command was rejected, or the request's record could not be accepted"
    ),
    ExitCode.NOT_COMPLETED: "the request failed, expired, was cancelled or interrupted",
    ExitCode.TIMED_OUT: "not done within `--timeout`; what was published stands",
    ExitCode.UNAVAILABLE: "Kafka or Redis does not answer, or a setting is wrong",
    ExitCode.DRIFT: "topics differ from the catalogue (`topics --check`, `topics --create`)",
    ExitCode.NOTHING_THERE: (
        "no such request, session, checkpoint, worker or template, the request had ended before, "
        "or nothing was paused"
    ),
    ExitCode.HUNG_UP: "stopped by SIGHUP: its terminal was closed",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C (SIGINT)",
    ExitCode.TERMINATED: "stopped by SIGTERM",
}

EXIT_CODES_HELP = "Exit codes: " + "; ".join(
    f"{int(code)} {meaning}" for code, meaning in EXIT_CODES.items()
)


_CODES_OF_SIGNALS = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGHUP: ExitCode.HUNG_UP,
}


class Stopped(Exception):
    """A signal asked the command to stop, and everything has been stopped."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.exit_code = _CODES_OF_SIGNALS[number]


def exit_code_of_result(result: AgentResult) -> ExitCode:
    """Give the exit code of a command that waited for this result."""
    match result.status:
        case "completed":
            return ExitCode.OK
        case "rejected":
            return ExitCode.REJECTED
        case "failed" | "cancelled" | "expired" | "interrupted":
            return ExitCode.NOT_COMPLETED
        case _:
            assert_never(result.status)


def exit_code_of_error(error: MillstreamError) -> ExitCode:
    """Give the exit code of a command that ended by this error."""
    # Imported where an error is: `--version` and the list of commands need no models of records.
    from millstream.schemas.dead_letters import RequestIdReused  # noqa: PLC0415
    from millstream.schemas.sessions.errors import (  # noqa: PLC0415
        CheckpointUnknown,
        SessionInputInvalid,
        SessionOutcomeUnknown,
        SessionUnknown,
    )

    # In this order: some are of the kind of a later one.
    codes: tuple[tuple[tuple[type[MillstreamError], ...], ExitCode], ...] = (
        ((SessionUnknown, CheckpointUnknown, UnknownTemplate), ExitCode.NOTHING_THERE),
        ((SessionInputInvalid, NoSuchPartition), ExitCode.USAGE),
        ((Rejected, RequestIdReused), ExitCode.REJECTED),
        ((SessionOutcomeUnknown,), ExitCode.TIMED_OUT),
        ((Misconfigured, ServiceUnavailable), ExitCode.UNAVAILABLE),
    )
    for kinds, code in codes:
        if isinstance(error, kinds):
            return code
    return ExitCode.FAILED
