"""`millstream cancel`: end a request, or all of a session that has arrived."""

from __future__ import annotations

from typing import Annotated

import typer

from millstream.gateway.commands.control.control import (
    Command,
    JsonOption,
    RequestOption,
    SessionOption,
    TenantOption,
    UserOption,
    is_known,
    result_of,
    user_command,
)
from millstream.gateway.exits import ExitCode
from millstream.schemas.base import DEFAULT_TENANT
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import RESULTS
from millstream.streams.bus.api import BEGINNING, EventBus, EventFilter

__all__ = ["cancel", "give_cancel"]


def cancel(
    *,
    user: UserOption,
    request_id: RequestOption = None,
    session: SessionOption = None,
    tenant: TenantOption = DEFAULT_TENANT,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the result, in all.")
    ] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """End a request, or all of a session that has arrived.

    A model's call under way is cut off. Waits for a request's result and tells how it ended. Exits
    8 if it had ended before, or if no such request had come: should it come, it is cancelled. Of a
    session it waits until a worker has taken the command up, not for the results.
    """
    event = user_command("cancel", user=user, tenant=tenant, request_id=request_id, session=session)
    Command(event, timeout_s=timeout_s, as_json=as_json).give(give_cancel)


async def give_cancel(bus: EventBus, command: Command) -> ExitCode:
    """Give a cancel and tell what became of it; gives the exit code."""
    if command.event.request_id is None:
        await command.carry_out(bus)
        return command.tell("done", "what had arrived of it is cancelled")
    ended = await result_of(bus, command.event)
    if ended is not None:
        return command.tell("had_ended", f"had ended before: {ended.status}", result=ended)
    known = await is_known(bus, command.event)
    await bus.publish(command.event)
    command.published = True
    result = await _result(bus, command.event)
    if not known:
        told = "no such request of this user had come; should it come, it is cancelled"
        return command.tell("unknown", told, result=result)
    if result.status != "cancelled":
        told = f"came to its end before it could be cancelled: {result.status}"
        return command.tell("had_ended", told, result=result)
    return command.tell("done", result.status, result=result)


async def _result(bus: EventBus, event: ControlCommand) -> AgentResult:
    wanted = EventFilter(tenant=event.tenant, user_id=event.user_id, request_id=event.request_id)
    async with bus.tail([RESULTS], from_=BEGINNING, filter=wanted) as coming:
        async for entry in coming:
            if isinstance(entry.event, AgentResult):
                return entry.event
    message = "a tail ends only with its bus"
    raise AssertionError(message)
