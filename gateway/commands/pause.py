"""`millstream pause` and `millstream resume`: let a request or a session wait, and go on."""

from __future__ import annotations

import asyncio
from typing import Annotated

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
from schemas.lane_events import CommandObeyed
from schemas.topics import OBEYED
from streams.bus import EventFilter

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
    raise typer.Exit(run(_pause(command)))


def resume(
    *,
    user: UserOption,
    request_id: RequestOption = None,
    session: SessionOption = None,
    tenant: TenantOption = DEFAULT_TENANT,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait until it is carried out.")
    ] = 30.0,
) -> None:
    """Let a request, or a session, go on that was paused.

    Waits until a worker has carried it out, and exits 1 if there was no pause to take back.
    """
    command = user_command(
        "resume", user=user, tenant=tenant, request_id=request_id, session=session
    )
    raise typer.Exit(run(_resume(command, timeout_s=timeout_s)))


async def _pause(command: ControlCommand) -> ExitCode:
    async with open_bus(settings_for_client()) as bus:
        await bus.publish(command)
    _tell(command, "waits from now on; `millstream resume` lets it go on")
    return ExitCode.OK


async def _resume(command: ControlCommand, *, timeout_s: float) -> ExitCode:
    wanted = EventFilter(user_id=command.user_id, tenant=command.tenant)
    async with (
        open_bus(settings_for_client()) as bus,
        bus.tail([OBEYED], filter=wanted) as coming,
    ):
        address = await bus.publish(command)
        try:
            async with asyncio.timeout(timeout_s) as limit:
                async for entry in coming:
                    mark = entry.event
                    if isinstance(mark, CommandObeyed) and mark.source == address:
                        return _told(command, mark)
        except TimeoutError:
            if not limit.expired():
                raise
    _tell(
        command,
        f"not resumed within {timeout_s:g} s. The command stands; does a worker run? "
        "See `millstream doctor`.",
    )
    return ExitCode.TIMED_OUT


def _told(command: ControlCommand, mark: CommandObeyed) -> ExitCode:
    if mark.was_paused is False:  # a worker of an earlier version does not say
        _tell(command, "was not paused")
        return ExitCode.FAILED
    _tell(command, "goes on")
    return ExitCode.OK


def _tell(command: ControlCommand, told: str) -> None:
    kind, target = (
        ("session", command.session_id)
        if command.request_id is None
        else ("request", command.request_id)
    )
    progress_console().print(f"{kind} {target}: {told}")
