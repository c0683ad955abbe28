"""`millstream worker`: work until told to stop."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
import uvloop

from millstream.gateway.client_settings import make_data_folder, settings_for_client
from millstream.gateway.console.terminal import print_data, progress_console
from millstream.gateway.processes.shutdown_watchdog import end_well_within, end_within
from millstream.streams.settings import Role, Settings
from millstream.streams.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from millstream.agents.executor import RunAgent
    from millstream.agents.factory import AgentFactory

__all__ = ["ROLES", "parse_roles", "work", "worker"]

ROLES: tuple[Role, ...] = get_args(Role)

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

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
    make_data_folder(settings)
    configure_logging(settings)
    work(settings, roles)


def work(
    settings: Settings,
    roles: frozenset[Role],
    *,
    run_agent: RunAgent | None = None,
    factory: AgentFactory | None = None,
) -> None:
    """Work in `roles` until SIGINT or SIGTERM; say on standard output when requests are served.

    To be called in the main thread, which agents run in: the lanes have a thread of their own.
    `factory` has the templates and tools; without it, there are the built-in ones.
    """
    from millstream.agents.hosting.main_thread import MainThread  # noqa: PLC0415  takes seconds

    signals, main = _StopSignals(), MainThread()
    how = {"run_agent": run_agent, "factory": factory, "threads": main}
    main.lend_while(lambda: uvloop.run(_work(settings, roles, signals, **how)))


class _StopSignals:
    """Hears SIGINT and SIGTERM in the main thread, whatever runs there; to be made there."""

    def __init__(self) -> None:
        self._tell: Callable[[], object] | None = None
        self._came = False
        for number in _STOP_SIGNALS:
            signal.signal(number, self._hear)

    def tell(self, tell: Callable[[], object]) -> None:
        """Call `tell` in the main thread when the first one comes, or now if it has."""
        self._tell = tell
        if self._came:
            tell()

    def _hear(self, _number: int, _frame: object) -> None:
        for number in _STOP_SIGNALS:
            # From here on a signal does what it does by default: it ends the process.
            signal.signal(number, signal.SIG_DFL)
        self._came = True
        if self._tell is not None:
            self._tell()


async def _work(
    settings: Settings, roles: frozenset[Role], signals: _StopSignals, **how: Any
) -> None:
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

    async def end_in_time() -> None:
        await stop.wait()
        end_within(settings.shutdown_grace_s + _AFTER_THE_GRACE_S)

    signals.tell(lambda: loop.call_soon_threadsafe(stop.set))
    ending = asyncio.create_task(end_in_time())
    await run_worker(settings, roles, ready=ready, stop=stop, **how)
    ending.cancel()
    end_well_within(_LEFTOVERS_S)
