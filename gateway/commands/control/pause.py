"""`millstream pause` and `millstream resume`: let a request or a session wait, and go on."""

from __future__ import annotations

import typer

from millstream.gateway.commands.control.control import (
    RequestOption,
    SessionOption,
    TenantOption,
    TimeoutOption,
    UserOption,
    carry_out,
    tell,
    told_too_late,
    user_command,
)
from millstream.gateway.console.running import run
from millstream.gateway.exits import ExitCode
from millstream.schemas.base import DEFAULT_TENANT
from millstream.schemas.events import ControlCommand

__all__ = ["pause", "resume"]


def pause(
    *,
    user: UserOption,
    request_id: RequestOption = None,
    session: SessionOption = None,
    tenant: TenantOption = DEFAULT_TENANT,
    timeout_s: TimeoutOption = 30.0,
) -> None:
    """Let a request, or all of a session, wait until it is resumed.

    No run of it begins. One that is under way stops before its next call of a model or a tool, and
    is begun anew when it is resumed; a call under way is not cut off. It stays paused whatever
    happens to workers, also if it is paused before it comes. Waits until a worker has carried it
    out, and exits 1 if the request had ended.
    """
    command = user_command(
        "pause", user=user, tenant=tenant, request_id=request_id, session=session
    )
    raise typer.Exit(run(_pause(command, timeout_s=timeout_s)))


def resume(
    *,
    user: UserOption,
    request_id: RequestOption = None,
    session: SessionOption = None,
    tenant: TenantOption = DEFAULT_TENANT,
    timeout_s: TimeoutOption = 30.0,
) -> None:
    """Let a request, or a session, go on that was paused.

    Waits until a worker has carried it out, and exits 1 if there was no pause to take back.
    """
    command = user_command(
        "resume", user=user, tenant=tenant, request_id=request_id, session=session
    )
    raise typer.Exit(run(_resume(command, timeout_s=timeout_s)))


async def _pause(command: ControlCommand, *, timeout_s: float) -> ExitCode:
    mark = await carry_out(command, timeout_s=timeout_s)
    if mark is None:
        return told_too_late(command, timeout_s=timeout_s)
    if mark.had_ended:
        tell(command, "had ended; `millstream history --request` shows how")
        return ExitCode.FAILED
    tell(command, "waits from now on; `millstream resume` lets it go on")
    return ExitCode.OK


async def _resume(command: ControlCommand, *, timeout_s: float) -> ExitCode:
    mark = await carry_out(command, timeout_s=timeout_s)
    if mark is None:
        return told_too_late(command, timeout_s=timeout_s)
    if mark.was_paused is False:  # a worker of an earlier version does not say
        tell(command, "was not paused")
        return ExitCode.FAILED
    tell(command, "goes on")
    return ExitCode.OK
