"""How `millstream` ends: exit codes that scripts can use."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, assert_never

from millstream.schemas.dead_letters import RequestIdReused
from millstream.schemas.errors import (
    MillstreamError,
    Misconfigured,
    NoSuchPartition,
    Rejected,
    ServiceUnavailable,
    UnknownTemplate,
)
from millstream.schemas.events import AgentResult
from millstream.schemas.sessions.errors import (
    CheckpointUnknown,
    SessionInputInvalid,
    SessionOutcomeUnknown,
    SessionUnknown,
)

__all__ = ["EXIT_CODES", "EXIT_CODES_HELP", "ExitCode", "exit_code_of_error", "exit_code_of_result"]


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
    ExitCode.FAILED: "something is wrong that has no code of its own",
    ExitCode.USAGE: "wrong usage: an option or argument is missing, or cannot be so",
    ExitCode.REJECTED: (
        "the request or command was rejected, or the request's record could not be accepted"
    ),
    ExitCode.NOT_COMPLETED: "the request failed, expired, was cancelled or interrupted",
    ExitCode.TIMED_OUT: "not done within `--timeout`; what was published stands",
    ExitCode.UNAVAILABLE: "Kafka or Redis does not answer, or a setting is wrong",
    ExitCode.DRIFT: "topics differ from the catalogue (`topics --check`)",
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


_CODES_OF_ERRORS: Final[tuple[tuple[tuple[type[MillstreamError], ...], ExitCode], ...]] = (
    ((SessionUnknown, CheckpointUnknown, UnknownTemplate), ExitCode.NOTHING_THERE),
    ((SessionInputInvalid, NoSuchPartition), ExitCode.USAGE),
    ((Rejected, RequestIdReused), ExitCode.REJECTED),
    ((SessionOutcomeUnknown,), ExitCode.TIMED_OUT),
    ((Misconfigured, ServiceUnavailable), ExitCode.UNAVAILABLE),
)
"""In this order: some are of the kind of a later one."""


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
    for kinds, code in _CODES_OF_ERRORS:
        if isinstance(error, kinds):
            return code
    return ExitCode.FAILED
