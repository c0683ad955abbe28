"""`millstream pause` and `millstream resume`: let a request or a session wait, and go on."""

from __future__ import annotations

import typer

from gateway.commands.control import (
    RequestOption,
    SessionOption,
    TenantOption,
    UserOption,
    user_command,
)
from gateway.connect import open_bus, settings_for_client
from gateway.exits import ExitCode
from gateway.running import run
from gateway.terminal import progress_console
from schemas.base import DEFAULT_TENANT
from schemas.events import ControlCommand

__all__ = ["pause", "resume"]


def pause(
    *,
    user: UserOption,
    request_id: RequestOption = None,
    session: SessionOption = None,
    tenant: TenantOption = DEFAULT_TENANT,
) -> None:
    """Let a request, or all of a session, wait until it is resumed.

    No run of it begins. One that is under way stops before its next call of a model or a tool, and
    is begun anew when it is resumed; a call under way is not cut off. It stays paused whatever
    happens to workers, also if it is paused before it comes.
    """
    command = user_command(
        "pause", user=user, tenant=tenant, request_id=request_id, session=session
    )
    told = "waits from now on; `millstream resume` lets it go on"
    raise typer.Exit(run(_publish(command, told)))


def resume(
    *,
    user: UserOption,
    request_id: RequestOption = None,
    session: SessionOption = None,
    tenant: TenantOption = DEFAULT_TENANT,
) -> None:
    """Let a request, or a session, go on that was paused."""
    command = user_command(
        "resume", user=user, tenant=tenant, request_id=request_id, session=session
    )
    raise typer.Exit(run(_publish(command, "goes on")))


async def _publish(command: ControlCommand, told: str) -> ExitCode:
    async with open_bus(settings_for_client()) as bus:
        await bus.publish(command)
    target = (
        f"session {command.session_id}"
        if command.request_id is None
        else f"request {command.request_id}"
    )
    progress_console().print(f"{target}: {told}")
    return ExitCode.OK
