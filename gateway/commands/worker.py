"""`millstream worker`: work until told to stop."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
import uvloop

from millstream.gateway.client_settings import settings_for_client
from millstream.gateway.console.terminal import print_data, progress_console
from millstream.gateway.processes.shutdown_watchdog import end_well_within, end_within
from millstream.streams.settings import Role, Settings
from millstream.streams.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from millstream.streams.lane.base.context import RunAgent
    from millstream.streams.worker import MakeFactory

__all__ = ["ROLES", "parse_roles", "work", "worker"]

ROLES: tuple[Role, ...] = get_args(Role)

_AFTER_THE_GRACE_S = 25.0
"""So long may what follows the grace take: last commits and snapshots, leaving the groups."""

_LEFTOVERS_S = 3.0
"""So long may tasks take that are left by clients which no broker answered."""


def parse_roles(text: str) -> frozenset[Role]:
    """Read `lanes,views`, in any order. Raises `typer.BadParameter`."""
    wanted = {name.strip() for name in text.split(",")}
    unknown = sorted(wanted - set(ROLES))
    if unknown:
        message = f"there is no role {unknown[0]!r}: write one or more of {','.join(ROLES)}"
        raise typer.BadParameter(message)
    return frozenset(role for role in ROLES if role in wanted)


def worker(
    role: Annotated[
        str, typer.Option("--role", help="What it does, comma-separated: lanes, views.")
    ] = ",".join(ROLES),
) -> None:
    """Work until Ctrl-C or SIGTERM, which let what runs come to its end.

    Prints one line of JSON on standard output once requests are served: its name, its roles and
    where its metrics are. A second signal ends it at once; what it had not committed is done again
    by whoever takes over.
    """
    roles = parse_roles(role)
    settings = settings_for_client()
    configure_logging(settings)
    uvloop.run(work(settings, roles))


async def work(
    settings: Settings,
    roles: frozenset[Role],
    *,
    run_agent: RunAgent | None = None,
    make_factory: MakeFactory | None = None,
) -> None:
    """Work in `roles` until SIGINT or SIGTERM; say on standard output when requests are served.

    `run_agent` and `make_factory` are those of `run_worker`.
    """
    from millstream.streams.worker import WorkerInfo, run_worker  # noqa: PLC0415  takes seconds to import

    def ready(info: WorkerInfo) -> None:
        line = {
            "worker": info.name,
            "roles": sorted(info.roles),
            "metrics_url": info.metrics_url,
        }
        print_data(json.dumps(line))
        progress_console().print(f"ready: {info.name} serves {', '.join(sorted(info.roles))}")

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop_once() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            # From here on a signal does what it does by default: it ends the process.
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    async def end_in_time() -> None:
        await stop.wait()
        end_within(settings.shutdown_grace_s + _AFTER_THE_GRACE_S)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop_once)
    ending = asyncio.create_task(end_in_time())
    made: dict[str, Any] = {} if make_factory is None else {"make_factory": make_factory}
    await run_worker(settings, roles, ready=ready, stop=stop, run_agent=run_agent, **made)
    ending.cancel()
    end_well_within(_LEFTOVERS_S)
