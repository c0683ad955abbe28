"""`millstream runs migrate`: have runs that wait go on with another version of their template."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from millstream.gateway.client_settings import open_bus, settings_for_client
from millstream.gateway.console.cleaning import in_line
from millstream.gateway.console.rendering import reason_text
from millstream.gateway.console.running import run_within
from millstream.gateway.console.tenant_option import tenant_of
from millstream.gateway.console.terminal import print_data, print_json, progress_console
from millstream.gateway.exits import ExitCode
from millstream.schemas.base import DEFAULT_TENANT, Address, words_of_problem
from millstream.schemas.control.migrations import RunMigration, RunMigrationAnswered
from millstream.schemas.topics import RUN_MIGRATION_ANSWERS
from millstream.streams.bus.api import EventBus, EventFilter
from millstream.streams.bus.kafka import KafkaLog
from millstream.streams.history.open_runs import OpenRun, runs_open
from millstream.streams.settings import Settings

__all__ = ["Migration", "migrate"]

_TIMEOUT_S: Final = 60.0
_AT_ONCE: Final = 200
"""So many commands are given before their answers are waited for."""


def migrate(
    request: Annotated[
        str | None, typer.Argument(metavar="[REQUEST]", help="One request, by its id.")
    ] = None,
    *,
    to: Annotated[str, typer.Option("--to", help="The version that they are to go on with.")],
    template: Annotated[
        str | None, typer.Option(help="Without REQUEST: all open runs of this template.")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Only runs that are at this version now.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Whose it is; else: only this user's.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The tenant; else: only this one's.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would become of each; change nothing.")
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the answers, in all.")
    ] = _TIMEOUT_S,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON Lines.")] = False,
) -> None:
    """Have a run that waits, or all of a template, go on with another version of it.

    A run is moved if it waits and what it has done so far fits that version: each tool that it has
    called is there, a call without an answer still fits it, and its answer has to fit the same. The
    others stay as they are, and why is said of each. Exits 3 if one was not moved, 8 if there is
    none, and 5 if not all were answered in time: give it again, what was moved stays so.
    """
    if (request is None) == (template is None):
        message = "name a request, or --template for all runs of one"
        raise typer.BadParameter(message)
    if request is not None and user is None:
        message = "say whose the request is"
        raise typer.BadParameter(message, param_hint="--user")
    tenant = (tenant or DEFAULT_TENANT) if request is not None else tenant_of(user, tenant)
    one = Migration(
        wanted=EventFilter(user_id=user, tenant=tenant, request_id=request),
        template=template,
        from_version=from_,
        to_version=to,
        dry_run=dry_run,
        as_json=as_json,
    )
    main = one.over_a_bus(settings_for_client())
    raise typer.Exit(run_within(timeout_s, main, lambda: one.late(timeout_s)))


class Migration:
    """Commands for runs that are to be moved, and what is said of what became of each.

    `wanted` names one request, or whose runs of `template` are meant.
    """

    def __init__(
        self,
        *,
        wanted: EventFilter,
        to_version: str,
        template: str | None = None,
        from_version: str | None = None,
        dry_run: bool = False,
        as_json: bool = False,
    ) -> None:
        self._wanted = wanted
        self._template = template
        self._from = from_version
        self._to = to_version
        self._dry_run = dry_run
        self._as_json = as_json
        self._awaited: dict[Address, RunMigration] = {}
        self._moved = 0
        self._left = 0
        self._code: ExitCode | None = None

    async def over_a_bus(self, settings: Settings) -> ExitCode:
        """Find the runs, and have them moved; gives the exit code."""
        async with open_bus(settings) as bus:
            runs: Sequence[OpenRun] = ()
            if self._wanted.request_id is None:
                now_ms = _now_ms()
                found = await runs_open(KafkaLog(settings), settings, self._wanted, now_ms=now_ms)
                runs = found.runs
            return await self.give(bus, runs)

    async def give(self, bus: EventBus, runs: Iterable[OpenRun] = ()) -> ExitCode:
        """Have the one request moved, or those of open `runs` that are meant; gives the code."""
        commands = self._commands(runs)
        if not commands:
            version = "" if self._from is None else f" at version {self._from}"
            progress_console().print(
                f"no open run of template {self._template}{version} is to be moved; "
                "`millstream runs list` shows those that there are"
            )
            return self._ended(ExitCode.NOTHING_THERE)
        for first in range(0, len(commands), _AT_ONCE):
            await self._carry_out(bus, commands[first : first + _AT_ONCE])
        self._tell_sum()
        return self._ended(ExitCode.REJECTED if self._left else ExitCode.OK)

    def late(self, timeout_s: float) -> ExitCode:
        """Tell of those that nobody has answered; gives the exit code."""
        if self._code is not None:
            return self._code  # only the clients have not closed
        for one in self._awaited.values():
            self._tell(one, "unanswered", "no worker has answered")
        self._tell_sum()
        progress_console().print(
            f"not all were answered within {timeout_s:g} s; what was asked stands, and given again "
            "it has no second effect. Does a worker run? See `millstream doctor`."
        )
        return ExitCode.TIMED_OUT

    def _ended(self, code: ExitCode) -> ExitCode:
        self._code = code
        return code

    def _commands(self, runs: Iterable[OpenRun]) -> list[RunMigration]:
        wanted = self._wanted
        if wanted.request_id is not None:
            assert wanted.user_id is not None  # noqa: S101  asked for with a request
            whose = wanted.tenant or DEFAULT_TENANT
            return [self._command(whose, wanted.user_id, wanted.request_id)]
        return [
            self._command(one.tenant, one.user_id, one.request_id)
            for one in runs
            if one.template == self._template
            and one.template_version != self._to
            and (self._from is None or one.template_version == self._from)
        ]

    def _command(self, tenant: str, user_id: str, request_id: str) -> RunMigration:
        try:
            return RunMigration(
                tenant=tenant,
                user_id=user_id,
                request_id=request_id,
                to_version=self._to,
                from_version=self._from,
                dry_run=self._dry_run,
                at_ms=_now_ms(),
            )
        except ValidationError as error:
            problem = error.errors()[0]
            message = f"{problem['loc'][0]}: {words_of_problem(problem)}"
            raise typer.BadParameter(message) from error

    async def _carry_out(self, bus: EventBus, commands: Sequence[RunMigration]) -> None:
        wanted = EventFilter(user_id=self._wanted.user_id, tenant=self._wanted.tenant)
        async with bus.tail([RUN_MIGRATION_ANSWERS], filter=wanted) as coming:
            addresses = await bus.publish_batch(commands)
            self._awaited = dict(zip(addresses, commands, strict=True))
            async for entry in coming:
                answer = entry.event
                if isinstance(answer, RunMigrationAnswered):
                    command = self._awaited.pop(answer.source, None)
                    if command is not None:
                        self._answered(command, answer)
                if not self._awaited:
                    return

    def _answered(self, command: RunMigration, answer: RunMigrationAnswered) -> None:
        self._moved += answer.moved
        self._left += not answer.moved
        facts = {
            "session_id": answer.session_id,
            "template": answer.template,
            "from_version": answer.from_version,
        }
        if answer.refused is not None:
            why = reason_text(answer.refused, whole=True)
            reason = answer.refused.model_dump(exclude_none=True)
            self._tell(command, "refused", f"stays as it is, {why}", **facts, reason=reason)
            return
        outcome = "would_move" if answer.dry_run else "moved"
        self._tell(command, outcome, answer.told, **facts)

    def _tell(self, command: RunMigration, outcome: str, told: str, **facts: Any) -> None:
        if self._as_json:
            known = {name: value for name, value in facts.items() if value is not None}
            given = command.model_dump(
                mode="json", include={"tenant", "user_id", "request_id", "to_version"}
            )
            print_json({**given, "outcome": outcome, **known})
            return
        user = command.partition_key
        print_data(in_line(f"{command.request_id} of {user}: {told}"))

    def _tell_sum(self) -> None:
        done = "could be moved" if self._dry_run else "moved"
        unanswered = f", {len(self._awaited)} not answered" if self._awaited else ""
        progress_console().print(f"{self._moved} {done}, {self._left} not{unanswered}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
