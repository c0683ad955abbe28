"""`millstream cancel`: end a request, or all of a session that has arrived."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from millstream.gateway.client_settings import open_bus, settings_for_client
from millstream.gateway.commands.control.control import (
    RequestOption,
    SessionOption,
    TenantOption,
    UserOption,
    carry_out,
    tell,
    told_too_late,
    user_command,
)
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import print_data, progress_console
from millstream.gateway.exits import ExitCode
from millstream.schemas.base import DEFAULT_TENANT
from millstream.schemas.events import AgentResult, ControlCommand
from millstream.schemas.topics import RESULTS
from millstream.streams.bus.api import BEGINNING, Delivery, EventFilter

__all__ = ["cancel"]


def cancel(
    *,
    user: UserOption,
    request_id: RequestOption = None,
    session: SessionOption = None,
    tenant: TenantOption = DEFAULT_TENANT,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the result.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """End a request, or all of a session that has arrived.

    A model's call under way is cut off. Waits for a request's result and tells how it ended:
    `cancelled`, unless it had come to its end before. Of a session it waits until a worker
    has taken the command up, not for the results.
    """
    command = user_command(
        "cancel", user=user, tenant=tenant, request_id=request_id, session=session
    )
    raise typer.Exit(run(_cancel(command, timeout_s=timeout_s, as_json=as_json)))


async def _cancel(command: ControlCommand, *, timeout_s: float, as_json: bool) -> ExitCode:
    if command.request_id is None:
        return await _cancel_session(command, timeout_s=timeout_s)
    async with open_bus(settings_for_client()) as bus:
        await bus.publish(command)
        wanted = EventFilter(
            tenant=command.tenant, user_id=command.user_id, request_id=command.request_id
        )
        try:
            async with (
                asyncio.timeout(timeout_s) as limit,
                bus.tail([RESULTS], from_=BEGINNING, filter=wanted) as coming,
            ):
                async for entry in coming:
                    if isinstance(entry, Delivery) and isinstance(entry.event, AgentResult):
                        _show(entry.event, as_json=as_json)
                        return ExitCode.OK
        except TimeoutError:
            if not limit.expired():
                raise
            progress_console().print(
                f"no result of request {command.request_id} within {timeout_s:g} s. The command "
                "stands; does a worker run? See `millstream doctor`."
            )
        return ExitCode.TIMED_OUT


async def _cancel_session(command: ControlCommand, *, timeout_s: float) -> ExitCode:
    if await carry_out(command, timeout_s=timeout_s) is None:
        return told_too_late(command, timeout_s=timeout_s)
    tell(command, "what had arrived of it is cancelled")
    return ExitCode.OK


def _show(result: AgentResult, *, as_json: bool) -> None:
    if as_json:
        print_data(json.dumps(result.model_dump(mode="json", exclude_none=True)))
    else:
        progress_console().print(f"request {result.request_id}: {result.status}")
