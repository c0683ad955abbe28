"""`millstream topics`: the catalogue beside what the broker has."""

from __future__ import annotations

from typing import Annotated

import typer

from millstream.gateway.client_settings import settings_for_client
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import print_json, print_table, progress_console
from millstream.gateway.exits import ExitCode
from millstream.schemas.topics import DAY_MS, HOUR_MS, TopicSpec, catalogue
from millstream.streams.broker.topic_admin import Drift, TopicReport, ensure_topics, topic_drift
from millstream.streams.settings import Settings

__all__ = ["topics"]


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
            print_json(_facts(settings, spec, drifts))
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
    rows = []
    for spec in specs:
        name = settings.topic(spec.name)
        state = "missing" if name in missing else "differs" if name in differing else "as here"
        rows.append(
            (name, spec.event.__name__, spec.key, str(settings.partitions), _kept(spec), state)
        )
    print_table(("topic", "event", "key", "partitions", "kept", "broker"), rows)


def _kept(spec: TopicSpec) -> str:
    newest = ["newest per key"] if spec.compacted else []
    if spec.retention_ms is None:
        return ", ".join(newest)
    if spec.retention_ms % DAY_MS == 0:
        return ", ".join([*newest, f"{spec.retention_ms // DAY_MS} d"])
    return ", ".join([*newest, f"{spec.retention_ms / HOUR_MS:g} h"])
