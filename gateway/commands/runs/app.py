"""`millstream runs`: runs that wait or are under way, and why; `list` and `show` change nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Annotated

import typer

from millstream.gateway.client_settings import settings_for_client
from millstream.gateway.commands.group import CommandGroup
from millstream.gateway.commands.runs.migrate import migrate
from millstream.gateway.commands.runs.telling import (
    none_text,
    print_run,
    print_runs,
    run_facts,
    shown_facts,
)
from millstream.gateway.console.running import run
from millstream.gateway.console.tenant_option import tenant_of
from millstream.gateway.console.terminal import print_json, progress_console
from millstream.gateway.exits import ExitCode
from millstream.schemas.base import DEFAULT_TENANT
from millstream.streams.bus.api import EventFilter
from millstream.streams.bus.kafka import KafkaLog
from millstream.streams.history.open_runs import (
    RUN_STATES,
    OpenRun,
    OpenRuns,
    RunRecords,
    records_of_run,
    runs_open,
)
from millstream.streams.settings import Settings

__all__ = ["runs_app"]

_LIMIT_MAX = 100_000

runs_app = typer.Typer(
    name="runs",
    help="Runs that wait or are under way, and what keeps them from going on.",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON Lines.")]


runs_app.command("migrate")(migrate)


@runs_app.command("list")
def list_(
    *,
    user: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    session: Annotated[str | None, typer.Option(help="Only of this session.")] = None,
    template: Annotated[str | None, typer.Option(help="Only of this template.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Only of this version of their template.")
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help=f"Only what is so: {', '.join(RUN_STATES)}; may be given several times."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=_LIMIT_MAX, help="So many at most.")] = 100,
    as_json: _Json = False,
) -> None:
    """Show the runs that have no result yet, the one that was asked for first in front, with why.

    `lacking` waits for a worker with its template, its version or a tool; `paused` is paused, or
    its session is; `retrying` waits for its next attempt; `running` has begun one; `waiting` waits
    for its turn. Exits 0 also where there are none. Standard error says how many there are of each.
    """
    _check_states(state or ())
    wanted = EventFilter(user_id=user, tenant=tenant_of(user, tenant), session_id=session)
    found = run(_open(settings_for_client(), wanted))
    kept = [
        one
        for one in found.runs
        if (template is None or one.template == template)
        and (version is None or one.template_version == version)
        and (not state or one.state in state)
    ]
    shown = kept[:limit]
    if as_json:
        for one in shown:
            print_json(run_facts(one))
    elif shown:
        print_runs(shown)
    _tell(found, kept, len(shown))


def _check_states(states: Iterable[str]) -> None:
    for one in states:
        if one not in RUN_STATES:
            message = f"{one!r} is no state of a run: {', '.join(RUN_STATES)}"
            raise typer.BadParameter(message, param_hint="--state")


def _tell(found: OpenRuns, kept: list[OpenRun], shown: int) -> None:
    console = progress_console()
    if not kept:
        console.print(none_text(found.runs))
    else:
        counted = Counter(one.state for one in kept)
        told = ", ".join(f"{count} {state}" for state, count in sorted(counted.items()))
        console.print(f"{told}" + (f"; the first {shown} are shown" if shown < len(kept) else ""))
    if found.unreadable:
        console.print(
            f"{found.unreadable} parked requests cannot be read by this version: they are a newer "
            "one's; ask with that"
        )


async def _open(settings: Settings, wanted: EventFilter) -> OpenRuns:
    return await runs_open(KafkaLog(settings), settings, wanted, now_ms=_now_ms())


@runs_app.command()
def show(
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="The request's id.")],
    *,
    user: Annotated[str, typer.Option("--user", help="Whose it is.")],
    tenant: Annotated[str, typer.Option("--tenant", help="The user's tenant.")] = DEFAULT_TENANT,
    as_json: _Json = False,
) -> None:
    """Show one run: what keeps it from going on, its attempts, and the steps of its journal.

    Exits 8 if the user has no such request, or it has ended; then it says how.
    """
    wanted = EventFilter(user_id=user, tenant=tenant, request_id=request)
    found, records = run(_one(settings_for_client(), wanted))
    if found is None:
        if (result := records.result) is not None:
            told = f"request {request} has ended: {result.status}"
        elif records.decision is not None and not records.decision.admitted:
            told = f"request {request} was rejected"
        else:
            told = f"user {user} has no open request {request}"
        progress_console().print(
            f"{told}; `millstream history --user {user} --request {request}` shows what is known"
        )
        raise typer.Exit(ExitCode.NOTHING_THERE)
    if as_json:
        print_json(shown_facts(found, records))
    else:
        print_run(found, records)


async def _one(settings: Settings, wanted: EventFilter) -> tuple[OpenRun | None, RunRecords]:
    log = KafkaLog(settings)
    found = await runs_open(log, settings, wanted, now_ms=_now_ms())
    one = next(iter(found.runs), None)
    since_ms = None if one is None else one.asked_at_ms
    return one, await records_of_run(log, settings, wanted, since_ms=since_ms)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
