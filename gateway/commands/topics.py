"""`millstream topics`: the catalogue beside what the broker has."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from millstream.gateway.client_settings import settings_for_client
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import print_data, progress_console
from millstream.gateway.exits import ExitCode
from millstream.schemas.topics import DAY_MS, HOUR_MS, TopicSpec, catalogue
from millstream.streams.broker.topic_admin import Drift, TopicReport, ensure_topics, topic_drift
from millstream.streams.settings import Settings

__all__ = ["topics"]

_WIDTH_UNBOUNDED = 400


def topics(
    as_json: Annotated[  # noqa: FBT002  Typer makes flags of these
        bool, typer.Option("--json", help="Print JSON Lines, a topic each.")
    ] = False,
    create: Annotated[  # noqa: FBT002
        bool, typer.Option("--create", help="Create the topics that are missing.")
    ] = False,
    check: Annotated[  # noqa: FBT002
        bool, typer.Option("--check", help="Exit 7 if the broker differs from the catalogue.")
    ] = False,
) -> None:
    """Show the topics of the catalogue and how the broker's differ. Changes none that exists."""
    settings = settings_for_client()
    specs = catalogue(settings.chain_cuts)
    report, drifts = run(_look(settings, specs, create=create))
    console = progress_console()
    if report is not None and report.created:
        console.print(f"created {', '.join(report.created)}")
    if as_json:
        for spec in specs:
            print_data(json.dumps(_facts(settings, spec, drifts), ensure_ascii=False))
    else:
        _print_table(settings, specs, drifts)
    for drift in drifts:
        console.print(f"{'error' if drift.fatal else 'note'}: {drift}")
    if check and drifts:
        raise typer.Exit(ExitCode.DRIFT)


async def _look(
    settings: Settings, specs: tuple[TopicSpec, ...], *, create: bool
) -> tuple[TopicReport | None, tuple[Drift, ...]]:
    report = await ensure_topics(settings, specs) if create else None
    return report, await topic_drift(settings, specs)


def _facts(settings: Settings, spec: TopicSpec, drifts: tuple[Drift, ...]) -> dict[str, object]:
    name = settings.topic(spec.name)
    return {
        "name": spec.name,
        "topic": name,
        "event": spec.event.__name__,
        "key": spec.key,
        "partitions": settings.partitions,
        "retention_ms": spec.retention_ms,
        "cleanup_policy": ",".join(spec.cleanup_policies),
        "about": spec.about,
        "drift": [
            {
                "setting": drift.setting,
                "wanted": drift.wanted,
                "found": drift.found,
                "remedy": drift.remedy,
                "fatal": drift.fatal,
            }
            for drift in drifts
            if drift.topic == name
        ],
    }


def _print_table(
    settings: Settings, specs: tuple[TopicSpec, ...], drifts: tuple[Drift, ...]
) -> None:
    differing = {drift.topic for drift in drifts}
    missing = {drift.topic for drift in drifts if drift.setting == "the topic"}
    table = Table(box=None, pad_edge=False)
    for heading in ("topic", "event", "key", "partitions", "kept", "broker"):
        table.add_column(heading, no_wrap=not _is_terminal())
    for spec in specs:
        name = settings.topic(spec.name)
        state = "missing" if name in missing else "differs" if name in differing else "as here"
        cells = (
            name,
            spec.event.__name__,
            spec.key,
            str(settings.partitions),
            _kept(spec),
            state,
        )
        table.add_row(*(Text(cell) for cell in cells))
    # Where no terminal says how wide it is, each topic stays on its line: programs read it too.
    plain = Console(highlight=False, width=None if _is_terminal() else _WIDTH_UNBOUNDED)
    with plain.capture() as captured:
        plain.print(table)
    for line in captured.get().splitlines():
        print_data(line.rstrip())


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _kept(spec: TopicSpec) -> str:
    newest = ["newest per key"] if spec.compacted else []
    if spec.retention_ms is None:
        return ", ".join(newest)
    if spec.retention_ms % DAY_MS == 0:
        return ", ".join([*newest, f"{spec.retention_ms // DAY_MS} d"])
    return ", ".join([*newest, f"{spec.retention_ms / HOUR_MS:g} h"])
