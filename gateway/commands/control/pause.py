"""`millstream pause` and `millstream resume`: let a request or a session wait, and go on."""

from __future__ import annotations

from millstream.gateway.commands.control.control import (
    Command,
    JsonOption,
    RequestOption,
    SessionOption,
    TenantOption,
    TimeoutOption,
    UserOption,
    is_known,
    user_command,
)
from millstream.gateway.exits import ExitCode
from millstream.schemas.base import DEFAULT_TENANT
from millstream.streams.bus.api import EventBus

__all__ = ["give_pause", "give_resume", "pause", "resume"]


def pause(
    *,
    user: UserOption,
    request_id: RequestOption = None,
    session: SessionOption = None,
    tenant: TenantOption = DEFAULT_TENANT,
    timeout_s: TimeoutOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Let a request, or all of a session, wait until it is resumed.

    No run of it begins. One that is under way stops before its next call of a model or a tool, and
    goes on there when it is resumed; a call under way is not cut off, and no finished one is made
    again. It stays paused whatever happens to workers. Waits until a worker has carried it out.
    Exits 8 if the request had ended, or if no such request had come: should it come, it waits.
    """
    event = user_command("pause", user=user, tenant=tenant, request_id=request_id, session=session)
    Command(event, timeout_s=timeout_s, as_json=as_json).give(give_pause)


def resume(
    *,
    user: UserOption,
    request_id: RequestOption = None,
    session: SessionOption = None,
    tenant: TenantOption = DEFAULT_TENANT,
    timeout_s: TimeoutOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Let a request, or a session, go on that was paused.

    Waits until a worker has carried it out, and exits 8 if there was no pause to take back.
    """
    event = user_command("resume", user=user, tenant=tenant, request_id=request_id, session=session)
    Command(event, timeout_s=timeout_s, as_json=as_json).give(give_resume)


async def give_pause(bus: EventBus, command: Command) -> ExitCode:
    """Give a pause and tell what became of it; gives the exit code."""
    mark = await command.carry_out(bus)
    if mark.had_ended:
        return command.tell("had_ended", "had ended; `millstream history --request` shows how")
    # Asked now: a request that came with the command is one that was there.
    if command.event.request_id is not None and not await is_known(bus, command.event):
        told = "no such request of this user has come; should it come, it waits until resumed"
        return command.tell("unknown", told)
    return command.tell("done", "waits from now on; `millstream resume` lets it go on")


async def give_resume(bus: EventBus, command: Command) -> ExitCode:
    """Give a resume and tell what became of it; gives the exit code."""
    mark = await command.carry_out(bus)
    if mark.was_paused is False:  # a worker of an earlier version does not say
        return command.tell("not_paused", "was not paused")
    return command.tell("done", "goes on")
