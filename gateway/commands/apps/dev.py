"""`millstream dev`: Kafka, Redis and a worker with an app, which takes changes over on save."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from watchfiles import DefaultFilter, awatch

from millstream.gateway.client_settings import local_settings
from millstream.gateway.commands.up import SecureOption, refuse_named, secure_lines
from millstream.gateway.commands.worker import parse_roles, with_app
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import progress_console
from millstream.gateway.exits import ExitCode, Stopped
from millstream.gateway.processes.app_check import AppReport, checked_app
from millstream.gateway.processes.children import ChildEnded
from millstream.gateway.processes.platform import Platform, platform
from millstream.schemas.errors import Misconfigured
from millstream.schemas.events import DEFAULT_TEMPLATE
from millstream.streams.apps.name import AppName
from millstream.streams.settings import Role, Settings

__all__ = ["dev"]

_SUFFIXES: Final = (".py", ".yaml", ".yml", ".json", ".toml", ".md", ".txt")
_GATHER_MS: Final = 200
_RUNS_GO_ON_S: Final = 1.0


def dev(
    app: Annotated[str, typer.Argument(help="Your app: `orders/app.py`, or `orders.app:app`.")],
    roles: Annotated[str, typer.Option(help="What the worker does, comma-separated.")] = (
        "lanes,views"
    ),
    *,
    secure: SecureOption = None,
) -> None:
    """Start Kafka, Redis and a worker with your app, and take changes over as you save them.

    What the app prints and what the worker warns of is shown here. A change with a mistake is told,
    and the worker goes on with what it had. Ctrl-C stops everything; the data stays.
    """
    wanted = parse_roles(roles)
    settings = with_app(local_settings(), app)
    refuse_named(settings, secure=secure)
    # What still runs when a change is taken over is begun anew by the next worker.
    quick = {"shutdown_grace_s": _RUNS_GO_ON_S, "log_level": "warning"}
    new = {name: value for name, value in quick.items() if name not in settings.model_fields_set}
    try:
        run(_dev(settings.model_copy(update=new), wanted, time.monotonic(), secure=secure))
    except Stopped as stopped:
        # To be stopped is how it is meant to end.
        raise typer.Exit(ExitCode.OK) from stopped


async def _dev(
    settings: Settings, roles: frozenset[Role], began: float, *, secure: bool | None
) -> None:
    console = progress_console()
    _folder(settings)
    async with platform(
        settings, roles=roles, tell=console.print, to_terminal=True, secure=secure
    ) as running:
        _announce(running, console, time.monotonic() - began)
        if running.secure is not None:
            console.print(secure_lines(running.secure), soft_wrap=True)
        await running.while_services_run(_take_over_changes(running, settings, console))


async def _take_over_changes(running: Platform, settings: Settings, console: Console) -> None:
    keeping = asyncio.create_task(running.worker.keep())
    try:
        async for changed in _changes(_folder(settings)):
            began = time.monotonic()
            console.print(f"{', '.join(changed)}: changed")
            try:
                await checked_app(settings)
            except Misconfigured as error:
                console.print(f"{error}\nthe worker goes on with what it had")
                continue
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await running.worker.stop()
            try:
                await running.worker.start()
            except ChildEnded as error:
                console.print(str(error))
            else:
                took_s = time.monotonic() - began
                console.print(
                    f"taken over in {took_s:.1f} s; metrics: {running.worker.metrics_url}"
                )
            keeping = asyncio.create_task(running.worker.keep())
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def _folder(settings: Settings) -> Path:
    """Give the folder that is watched. Raises `Misconfigured` for an app that is no file."""
    folder = AppName.parse(str(settings.app)).folder
    if folder is None:
        message = f"{settings.app} is not below this folder: name the app's file, to watch it"
        raise Misconfigured(message)
    return folder


async def _changes(folder: Path) -> AsyncIterator[list[str]]:
    """Give the names of what was saved in an app's folder, whenever something is."""

    class Filter(DefaultFilter):
        def __call__(self, change: object, path: str) -> bool:
            return path.endswith(_SUFFIXES) and super().__call__(change, path)  # type: ignore[arg-type]

    async for changes in awatch(folder, watch_filter=Filter(), debounce=_GATHER_MS):
        yield sorted({str(Path(path).relative_to(folder)) for _, path in changes})


def _announce(running: Platform, console: Console, took_s: float) -> None:
    report = running.report
    console.print(
        f"✓ ready in {took_s:.1f} s; Kafka at {running.settings.kafka}\n"
        f"templates: {', '.join(report.templates)}\n"
        f"metrics: {running.worker.metrics_url}\n"
        "In another terminal:\n"
        f"  millstream chat {_to_talk_to(report)}\n"
        "Save a file of the app, and the worker takes it over. Ctrl-C stops everything."
    )


def _to_talk_to(report: AppReport) -> str:
    """Give the template that a person most likely wants: the app's first one."""
    return report.own[0] if report.own else DEFAULT_TEMPLATE
