"""How `millstream` ends: exit codes that scripts can use."""

from __future__ import annotations

from enum import IntEnum
from typing import assert_never

from millstream.schemas.dead_letters import RequestIdReused
from millstream.schemas.errors import (
    MillstreamError,
    Misconfigured,
    NoSuchPartition,
    Rejected,
    ServiceUnavailable,
)
from millstream.schemas.events import AgentResult

__all__ = ["EXIT_CODES_HELP", "ExitCode", "exit_code_of_error", "exit_code_of_result"]


class ExitCode(IntEnum):
    """The exit codes of all commands."""

    OK = 0
    FAILED = 1
    """Something is wrong that has no code of its own."""
    USAGE = 2
    REJECTED = 3
    NOT_COMPLETED = 4
    TIMED_OUT = 5
    UNAVAILABLE = 6
    DRIFT = 7
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_CODES_HELP = (
    "Exit codes: 0 completed, 2 wrong usage, 3 rejected, 4 failed, expired, cancelled or "
    "interrupted, 5 no result in time, 6 Kafka or Redis does not answer or a setting is wrong."
)


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
    if isinstance(error, Rejected | RequestIdReused):
        return ExitCode.REJECTED
    if isinstance(error, NoSuchPartition):
        return ExitCode.USAGE
    if isinstance(error, Misconfigured | ServiceUnavailable):
        return ExitCode.UNAVAILABLE
    return ExitCode.FAILED
