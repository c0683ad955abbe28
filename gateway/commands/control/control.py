"""What the commands share by which a user controls requests that were accepted before."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal, NoReturn

import typer
from pydantic import ValidationError

from millstream.gateway.client_settings import open_bus, settings_for_client
from millstream.gateway.console.running import run_within
from millstream.gateway.console.terminal import print_json, progress_console
from millstream.gateway.exits import ExitCode
from millstream.schemas.base import words_of_problem
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import CommandObeyed
from millstream.schemas.topics import DECISIONS, OBEYED, REQUESTS, RESULTS
from millstream.streams.bus.api import EventBus, EventFilter
from millstream.streams.settings import Settings

__all__ = [
    "Command",
    "JsonOption",
    "RequestOption",
    "SessionOption",
    "TenantOption",
    "TimeoutOption",
    "UserOption",
    "is_known",
    "result_of",
    "user_command",
]

Outcome = Literal["done", "had_ended", "unknown", "not_paused", "late"]
"""What became of a command; `unknown`: no such request has come."""

_CODES: Final[dict[Outcome, ExitCode]] = {
    "done": ExitCode.OK,
    "had_ended": ExitCode.NOTHING_THERE,
    "unknown": ExitCode.NOTHING_THERE,
    "not_paused": ExitCode.NOTHING_THERE,
    "late": ExitCode.TIMED_OUT,
}


UserOption = Annotated[str, typer.Option("--user", help="Whose it is.")]
TenantOption = Annotated[str, typer.Option("--tenant", help="The user's tenant.")]
RequestOption = Annotated[str | None, typer.Option("--request", help="One request, by its id.")]
SessionOption = Annotated[
    str | None, typer.Option("--session", help="A session: all of its requests.")
]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", min=0.1, help="Seconds to wait until it is carried out, in all."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print what became of it as JSON.")]


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
        raise typer.BadParameter(f"{problem['loc'][0]}: {words_of_problem(problem)}") from error


class Command:
    """A command that is given, and what is said of what became of it: in words, or as JSON."""

    def __init__(self, event: ControlCommand, *, timeout_s: float, as_json: bool) -> None:
        self.event = event
        self.published = False
        self._timeout_s = timeout_s
        self._as_json = as_json
        self._code: ExitCode | None = None

    def give(self, give: Give) -> NoReturn:
        """Have `give` give it over a bus, within its time, and exit with the code that it gives."""
        main = self._over_a_bus(give, settings_for_client())
        raise typer.Exit(run_within(self._timeout_s, main, self.late))

    async def _over_a_bus(self, give: Give, settings: Settings) -> ExitCode:
        async with open_bus(settings) as bus:
            return await give(bus, self)

    async def carry_out(self, bus: EventBus) -> CommandObeyed:
        """Publish it and wait until a worker has carried it out."""
        wanted = EventFilter(user_id=self.event.user_id, tenant=self.event.tenant)
        async with bus.tail([OBEYED], filter=wanted) as coming:
            address = await bus.publish(self.event)
            self.published = True
            async for entry in coming:
                mark = entry.event
                if isinstance(mark, CommandObeyed) and mark.source == address:
                    return mark
        message = "a tail ends only with its bus"
        raise AssertionError(message)

    def tell(self, outcome: Outcome, told: str, *, result: AgentResult | None = None) -> ExitCode:
        """Tell what became of it; gives the exit code. In JSON a result is told whole."""
        self._code = _CODES[outcome]
        if self._as_json:
            facts: dict[str, Any] = {"command": self.event.command, "outcome": outcome}
            if result is None:
                target = {"request_id": self.event.request_id, "session_id": self.event.session_id}
                facts |= {name: value for name, value in target.items() if value is not None}
            else:
                facts |= result.model_dump(mode="json", exclude_none=True)
            print_json(facts)
            return self._code
        kind, target_id = (
            ("session", self.event.session_id)
            if self.event.request_id is None
            else ("request", self.event.request_id)
        )
        progress_console().print(f"{kind} {target_id}: {told}")
        return self._code

    def late(self) -> ExitCode:
        """Tell that there is no time left; gives the exit code."""
        if self._code is not None:
            return self._code  # only the clients have not closed
        what = self.event.command
        if not self.published:
            told = f"Kafka has not taken the {what} within {self._timeout_s:g} s; it may stand"
            return self.tell("late", f"{told} all the same. See `millstream doctor`.")
        return self.tell(
            "late",
            f"{what} was not carried out within {self._timeout_s:g} s. The command stands; does a "
            "worker run? See `millstream doctor`.",
        )


async def result_of(bus: EventBus, event: ControlCommand) -> AgentResult | None:
    """Give the result of a command's request, `None` while it has none."""
    found = await bus.history(topics=(RESULTS,), filter=_of(event), limit=1)
    result = found[-1].event if found else None
    return result if isinstance(result, AgentResult) else None


async def is_known(bus: EventBus, event: ControlCommand) -> bool:
    """Tell whether a command's request has come, by its record or by what was decided on it."""
    for spec in (REQUESTS, DECISIONS):
        if await bus.history(topics=(spec,), filter=_of(event), limit=1):
            return True
    return False


Give = Callable[[EventBus, Command], Awaitable[ExitCode]]
"""Gives a command and tells what became of it; gives the exit code."""


def _of(event: ControlCommand) -> EventFilter:
    return EventFilter(tenant=event.tenant, user_id=event.user_id, request_id=event.request_id)
