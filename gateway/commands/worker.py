"""`millstream worker`: work until told to stop."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from millstream.gateway.client_settings import (
    local_settings,
    make_data_folder,
    settings_for_client,
)
from millstream.gateway.console.terminal import print_data, progress_console
from millstream.gateway.processes.shutdown_watchdog import end_well_within, end_within
from millstream.middleware.pipeline import build_pipeline
from millstream.streams.apps.name import AppName
from millstream.streams.policy_file import load_policy
from millstream.streams.settings import Role, Settings
from millstream.streams.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from millstream.agents.executor import RunAgent
    from millstream.agents.templates.template import AgentTemplate
    from millstream.streams.apps.app import AppParts

__all__ = ["ROLES", "AppOption", "parse_roles", "with_app", "work", "worker"]

AppOption = Annotated[
    str | None,
    typer.Option("--app", help="Your app: `orders.app:app`, or its file; else MILLSTREAM_APP."),
]

ROLES: tuple[Role, ...] = get_args(Role)

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_AFTER_THE_GRACE_S = 15.0
"""What has not ended so long after the grace is stuck: all that follows it has a shorter bound."""

_LEFTOVERS_S = 1.0
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
    app: AppOption = None,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Say what is wrong with app and policy, and end.")
    ] = False,
) -> None:
    """Work until Ctrl-C, SIGTERM or SIGHUP, which let what runs come to its end.

    Prints one line of JSON on standard output once requests are served: its name, its roles and
    where its metrics are. A second signal ends it at once; what it had not committed is done again
    by whoever takes over. What an app prints goes to standard error.
    """
    roles = parse_roles(role)
    settings = with_app(local_settings() if check else settings_for_client(), app)
    if not check:
        make_data_folder(settings)
    told = _own_output()
    configure_logging(settings)
    parts = _parts(settings)
    if check:
        build_pipeline(load_policy(settings, parts.policy_file), layers=parts.layers).split(
            settings.chain_cuts
        )
        told(json.dumps(_described(settings, parts)))
        return
    work(settings, roles, app=parts, told=told)


def with_app(settings: Settings, app: str | None) -> Settings:
    """Give settings with the app that the command line names, if it names one."""
    return settings if app is None else settings.model_copy(update={"app": str(AppName.parse(app))})


def _parts(settings: Settings) -> AppParts:
    from millstream.streams.apps.checks import parts_of  # noqa: PLC0415  takes seconds
    from millstream.streams.apps.loading import load_app  # noqa: PLC0415

    return parts_of(None if settings.app is None else load_app(AppName.parse(settings.app)))


def _described(settings: Settings, parts: AppParts) -> dict[str, Any]:
    from millstream.agents.templates.template import BUILT_IN_TEMPLATES  # noqa: PLC0415

    policy = settings.policy_file or parts.policy_file
    return {
        "app": parts.name,
        "templates": _names(parts.templates),
        "own_templates": _names(one for one in parts.templates if one not in BUILT_IN_TEMPLATES),
        "tools": parts.tools.names(),
        "policy_file": None if policy is None else str(policy.absolute()),
    }


def _names(templates: Iterable[AgentTemplate]) -> list[str]:
    """Give the names of templates, each once: an app may give several versions of one."""
    return list(dict.fromkeys(template.name for template in templates))


def _own_output() -> Callable[[str], None]:
    """Keep standard output for ourselves; gives what prints a line there.

    Whoever started the worker reads one line and perhaps no more. Whatever else is printed, by an
    app, a library or a program that a tool starts, goes to standard error.
    """
    sys.stdout.flush()
    ours = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)

    def tell(line: str) -> None:
        ours.write(f"{line}\n")
        ours.flush()

    return tell


def work(
    settings: Settings,
    roles: frozenset[Role],
    *,
    run_agent: RunAgent | None = None,
    app: AppParts | None = None,
    told: Callable[[str], None] = print_data,
) -> None:
    """Work in `roles` until told to end by a signal; say on standard output when it serves.

    To be called in the main thread, which agents run in: the lanes have a thread of their own.
    Without an `app` there is what is built in. `told` takes the line that says that it serves.
    """
    import uvloop  # noqa: PLC0415  `up`, which takes its options from here, starts no loop of it

    from millstream.agents.hosting.main_thread import MainThread  # noqa: PLC0415  takes seconds

    signals, main = _StopSignals(), MainThread()
    how = {"run_agent": run_agent, "app": app, "threads": main}
    main.lend_while(lambda: uvloop.run(_work(settings, roles, signals, told, **how)))


class _StopSignals:
    """Hears the signals to stop in the main thread, whatever runs there; to be made there.

    SIGHUP stays ignored where whoever started us ignores it, as `nohup` does.
    """

    def __init__(self) -> None:
        self._tell: Callable[[], object] | None = None
        self._came = False
        self._heeded = [
            number
            for number in _STOP_SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        ]
        for number in self._heeded:
            signal.signal(number, self._hear)

    def tell(self, tell: Callable[[], object]) -> None:
        """Call `tell` in the main thread when the first one comes, or now if it has."""
        self._tell = tell
        if self._came:
            tell()

    def _hear(self, _number: int, _frame: object) -> None:
        for number in self._heeded:
            # From here on a signal does what it does by default: it ends the process.
            signal.signal(number, signal.SIG_DFL)
        self._came = True
        if self._tell is not None:
            self._tell()


async def _work(
    settings: Settings,
    roles: frozenset[Role],
    signals: _StopSignals,
    told: Callable[[str], None],
    **how: Any,
) -> None:
    from millstream.streams.worker import WorkerInfo, run_worker  # noqa: PLC0415  takes seconds to import

    def ready(info: WorkerInfo) -> None:
        line = {
            "worker": info.name,
            "roles": sorted(info.roles),
            "metrics_url": info.metrics_url,
        }
        told(json.dumps(line))
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
