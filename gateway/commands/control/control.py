"""What the commands share by which a user controls requests that were accepted before."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from millstream.gateway.client_settings import open_bus, settings_for_client
from millstream.gateway.console.terminal import progress_console
from millstream.gateway.exits import ExitCode
from millstream.schemas.events import ControlCommand
from millstream.schemas.lane_events import CommandObeyed
from millstream.schemas.topics import OBEYED
from millstream.streams.bus.api import EventFilter

__all__ = [
    "RequestOption",
    "SessionOption",
    "TenantOption",
    "TimeoutOption",
    "UserOption",
    "carry_out",
    "tell",
    "told_too_late",
    "user_command",
]

UserOption = Annotated[str, typer.Option("--user", help="Whose it is.")]
TenantOption = Annotated[str, typer.Option("--tenant", help="The user's tenant.")]
RequestOption = Annotated[str | None, typer.Option("--request", help="One request, by its id.")]
SessionOption = Annotated[
    str | None, typer.Option("--session", help="A session: all of its requests.")
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Seconds to wait until it is carried out.")
]


def user_command(
    command: Literal["cancel", "pause", "resume"],
    *,
    user: str,
    tenant: str,
    request_id: str | None,
    session: str | None,
) -> ControlCommand:
    """Make a command. Raises `typer.BadParameter` that says which option is wrong."""
    try:
        return ControlCommand(
            user_id=user,
            tenant=tenant,
            command=command,
            request_id=request_id,
            session_id=session,
            at_ms=time.time_ns() // 10**6,
        )
    except ValidationError as error:
        if (request_id is None) == (session is None):
            message = "name either --request or --session"
            raise typer.BadParameter(message) from error
        problem = error.errors()[0]
        raise typer.BadParameter(f"{problem['loc'][0]}: {problem['msg']}") from error


async def carry_out(command: ControlCommand, *, timeout_s: float) -> CommandObeyed | None:
    """Give a command and wait until a worker has carried it out; `None` if none has in time."""
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
                        return mark
        except TimeoutError:
            if not limit.expired():
                raise
    return None


def told_too_late(command: ControlCommand, *, timeout_s: float) -> ExitCode:
    """Tell that no worker has carried a command out in time."""
    tell(
        command,
        f"{command.command} was not carried out within {timeout_s:g} s. The command stands; does a "
        "worker run? See `millstream doctor`.",
    )
    return ExitCode.TIMED_OUT


def tell(command: ControlCommand, told: str) -> None:
    """Tell something of a command's request or session."""
    kind, target = (
        ("session", command.session_id)
        if command.request_id is None
        else ("request", command.request_id)
    )
    progress_console().print(f"{kind} {target}: {told}")
