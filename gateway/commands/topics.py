"""`millstream topics`: the catalogue beside what the broker has, and the rights on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from millstream.gateway.client_settings import (
    local_settings,
    running_endpoints,
    settings_for_client,
)
from millstream.gateway.commands.group import CommandGroup
from millstream.gateway.commands.user_roles import OF_USERS, RIGHTS_OF, UserRole
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import (
    print_data,
    print_json,
    print_table,
    progress_console,
)
from millstream.gateway.exits import ExitCode
from millstream.schemas.errors import Misconfigured
from millstream.schemas.topics import TopicSpec, catalogue
from millstream.streams.broker.rights.acls import Grant, commands, grants
from millstream.streams.broker.rights.needed import Resource
from millstream.streams.broker.topic_admin import Drift, TopicReport, ensure_topics, topic_drift
from millstream.streams.settings import Settings
from millstream.streams.topic_settings.retention import configs_of, told_ms

__all__ = ["topics_app"]

topics_app = typer.Typer(
    name="topics", cls=CommandGroup, invoke_without_command=True, rich_markup_mode=None
)


@topics_app.callback()
def topics(
    context: typer.Context,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON Lines, a topic each.")
    ] = False,
    create: Annotated[
        bool,
        typer.Option(
            "--create",
            help="Create the topics that are missing; exit 7 if no worker can run with them.",
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit 7 if the broker differs from the catalogue.")
    ] = False,
) -> None:
    """Show the topics of the catalogue and how the broker's differ. Changes none that exists."""
    if context.invoked_subcommand is not None:
        return
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
    if (check and drifts) or (create and any(drift.fatal for drift in drifts)):
        raise typer.Exit(ExitCode.DRIFT)


@topics_app.command()
def acls(
    *,
    roles: Annotated[
        list[UserRole] | None,
        typer.Option(
            "--role",
            help="Only this role; may be given several times. worker: lanes and views; client: "
            "upstream and product.",
        ),
    ] = None,
    principal: Annotated[
        str | None,
        typer.Option(help="Who is granted them, as User:alice; default: User: and the role."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON Lines, a rule each, and no commands.")
    ] = False,
    optional: Annotated[
        bool, typer.Option("--optional", help="Also rights that a role does without.")
    ] = False,
    group: Annotated[
        str | None,
        typer.Option(help="Also Read on this consumer group, of a program of your own."),
    ] = None,
    command_config: Annotated[
        str | None,
        typer.Option(help="The properties file that kafka-acls.sh is to connect by."),
    ] = None,
) -> None:
    """Print the rights that each role needs, and no more, as commands of Kafka's own tool.

    Asks no broker. Nothing is needed on the cluster since Kafka 2.8; before, IdempotentWrite is.
    A program that reads with a group of its own needs Read on it, too: name the group.
    """
    if principal is not None and ":" not in principal:
        message = f"a type stands before the name, as Kafka has it: User:{principal}"
        raise typer.BadParameter(message, param_hint="--principal")
    settings = _settings_for_commands()
    for role in roles or OF_USERS:
        who = principal or f"User:{role}"
        found = grants(settings, RIGHTS_OF[role], who, optional=optional)
        if group is not None:
            found = (*found, Grant(who, Resource("group", group), ("Read",)))
        if as_json:
            for one in found:
                for rule in _rules(role, one):
                    print_json(rule)
            continue
        print_data(f"# {role}, as {who}")
        for command in commands(settings, found, command_config=command_config):
            print_data(command)


def _settings_for_commands() -> Settings:
    try:
        return settings_for_client()
    except Misconfigured:
        # Rights are granted before anything runs, and by who is no user yet. What is set wrongly
        # is told here as well.
        settings = local_settings()
        running = running_endpoints(settings.data_dir)
        if running is None or "kafka" in settings.model_fields_set:
            return settings
        return settings.model_copy(update={"kafka": running.kafka})


def _rules(role: str, found: Grant) -> Iterator[dict[str, object]]:
    for operation in found.operations:
        yield {
            "role": role,
            "principal": found.principal,
            "host": "*",
            "operation": operation,
            "permission": "Allow",
            "resource_type": found.resource.kind,
            "resource_name": found.resource.name,
            "pattern_type": "prefixed" if found.resource.is_prefix else "literal",
        }


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
        "retention_ms": settings.retention.ms(spec),
        "configs": configs_of(settings.topics, spec.configs(), spec),
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
            (
                name,
                spec.event.__name__,
                spec.key,
                str(settings.partitions),
                _kept(spec, settings),
                state,
            )
        )
    print_table(("topic", "event", "key", "partitions", "kept", "broker"), rows)


def _kept(spec: TopicSpec, settings: Settings) -> str:
    newest = ["newest per key"] if spec.compacted else []
    kept_ms = settings.retention.ms(spec)
    return ", ".join(newest if kept_ms is None else [*newest, told_ms(kept_ms)])
