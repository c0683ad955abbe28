"""`millstream templates`: apply templates at run time, see them, and retire them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from millstream.gateway.client_settings import settings_for_client
from millstream.gateway.commands.group import CommandGroup
from millstream.gateway.console.asking import account_name
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import (
    print_data,
    print_json,
    print_table,
    progress_console,
)
from millstream.gateway.console.time_parsing import time_text
from millstream.schemas.errors import Misconfigured, UnknownTemplate
from millstream.schemas.topics import TEMPLATES
from millstream.streams.broker.topic_admin import ensure_topics, partition_counts
from millstream.streams.consumer.members import LaneMember, lane_members
from millstream.streams.settings import Settings

if TYPE_CHECKING:
    from millstream.agents.templates.template import AgentTemplate
    from millstream.streams.templates.records import AppliedTemplate
    from millstream.streams.templates.registry import Outcome, TemplateRegistry

__all__ = ["templates_app"]

templates_app = typer.Typer(
    name="templates",
    help="Templates for every worker, at run time: apply, see and retire them.",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
)

_TOLD = {
    "applied": "applied",
    "applied_again": "applied again: it is the newest now",
    "retired": "retired",
    "unchanged": "unchanged: it stands so already",
}

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The template's name.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON Lines.")]


@templates_app.command()
def apply(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", exists=True, dir_okay=False, help="YAML or JSON."),
    ],
    *,
    as_json: _Json = False,
) -> None:
    """Apply templates: every worker has them at once, and new runs get them.

    All files or none. A version names one content for ever: other content needs another version.
    """
    settings = settings_for_client()
    templates = _load(files)
    _tell(run(_apply(settings, templates)), as_json=as_json)


@templates_app.command("list")
def list_(*, as_json: _Json = False) -> None:
    """Show what was applied, and how many of the live workers can run it.

    `new runs` get it; `older` and `retired` are for runs that began with it; `not here`: no live
    worker can run it, so new runs get the one of their app. Standard error names the templates
    that live workers have of their apps.
    """
    settings = settings_for_client()
    found, members = run(_look(settings))
    if as_json:
        for one in found:
            print_json(_facts(one, members))
    elif found:
        _print_table(found, members)
    own = ", ".join(_of_apps(found, members))
    beside = f"of their apps live workers have: {own}" if own else "no live worker has any"
    if not found:
        progress_console().print(f"no template was applied; {beside}")
    elif own:
        progress_console().print(beside)


@templates_app.command()
def show(
    name: _Name,
    version: Annotated[
        str | None, typer.Option(help="Else the version of new runs, or the last one.")
    ] = None,
    *,
    as_json: _Json = False,
) -> None:
    """Show one template, whole, as a file that can be applied.

    Comments name the sizes that it leaves to the model, and what they come to by this machine's
    settings.
    """
    settings = settings_for_client()
    found, members = run(_look(settings))
    one = _chosen(found, name, version, members)
    by_model = _by_model(one, settings)
    if as_json:
        facts = _facts(one, members) | {"content": one.event.content, "by_model": by_model}
        print_json(facts)
        return
    print_data(yaml.safe_dump(one.event.content, sort_keys=False, allow_unicode=True).rstrip())
    for size, tokens in by_model.items():
        print_data(f"# {size}: by the model, {tokens:,}")


@templates_app.command()
def retire(
    name: _Name,
    version: Annotated[str | None, typer.Option(help="Only this version, else all.")] = None,
    *,
    as_json: _Json = False,
) -> None:
    """Give a template to no new run any more; runs that have begun keep their version."""
    settings = settings_for_client()
    _tell(run(_retire(settings, name, version)), as_json=as_json)


def _registry(settings: Settings) -> TemplateRegistry:
    from millstream.streams.templates.registry import TemplateRegistry  # noqa: PLC0415  slow to import

    return TemplateRegistry(settings)


async def _apply(settings: Settings, templates: tuple[AgentTemplate, ...]) -> tuple[Outcome, ...]:
    # Workers of an earlier version may have created the others.
    await ensure_topics(settings, (TEMPLATES,))
    return await _registry(settings).apply(templates, by=account_name())


async def _retire(settings: Settings, name: str, version: str | None) -> tuple[Outcome, ...]:
    await partition_counts(settings, [settings.topic(TEMPLATES.name)])
    return await _registry(settings).retire(name, version, by=account_name())


async def _look(
    settings: Settings,
) -> tuple[tuple[AppliedTemplate, ...], tuple[LaneMember, ...]]:
    # A reader would wait for a topic that there is not.
    await partition_counts(settings, [settings.topic(TEMPLATES.name)])
    return await _registry(settings).all(), await lane_members(settings)


def _load(files: list[Path]) -> tuple[AgentTemplate, ...]:
    from millstream.streams.template_files import load_template  # noqa: PLC0415  slow to import

    templates: dict[tuple[str, str], tuple[Path, AgentTemplate]] = {}
    mistakes = []
    for path in files:
        try:
            template = load_template(path)
        except Misconfigured as error:
            mistakes.append(str(error))
            continue
        key = (template.name, template.version)
        if key in templates:
            name, version = key
            mistakes.append(
                f"{path}: name: template {name!r}, version {version!r}, is in "
                f"{templates[key][0]} too"
            )
        templates[key] = (path, template)
    if mistakes:
        raise Misconfigured("\n".join(mistakes))
    return tuple(template for _, template in templates.values())


def _of_apps(
    found: tuple[AppliedTemplate, ...], members: tuple[LaneMember, ...]
) -> tuple[str, ...]:
    """Give the names of templates that live workers have of their app.

    That is so where a worker has the name, and can run none of the versions that were applied.
    """
    applied = {one.key for one in found if not one.event.retired}
    return tuple(
        sorted(
            {
                name
                for one in members
                if one.can_run is not None
                for name in one.can_run.names
                if not any(key in one.can_run.versions for key in applied if key[0] == name)
            }
        )
    )


def _chosen(
    found: tuple[AppliedTemplate, ...],
    name: str,
    version: str | None,
    members: tuple[LaneMember, ...],
) -> AppliedTemplate:
    mine = [one for one in found if one.event.name == name]
    if version is not None:
        mine = [one for one in mine if one.event.version == version]
    if not mine:
        known = ", ".join(sorted({f"{one.event.name} {one.event.version}" for one in found}))
        message = f"no such template was applied; those that were: {known or 'none'}"
        if name in _of_apps(found, members):
            message += f". Live workers have {name!r} of their app: it stands in the app's files"
        raise UnknownTemplate(message)
    offered = [one for one in mine if not one.event.retired]
    return (offered or mine)[-1]


def _by_model(one: AppliedTemplate, settings: Settings) -> dict[str, int]:
    """Give the sizes that a template leaves to its models, and what they come to here."""
    from millstream.agents.templates.sizes import fitted, sizes_by_model, sizes_of  # noqa: PLC0415
    from millstream.streams.apps.app import AppParts  # noqa: PLC0415  slow to import
    from millstream.streams.apps.checks import windows  # noqa: PLC0415
    from millstream.streams.templates.records import template_of  # noqa: PLC0415

    try:
        template = template_of(one.event)
    except Misconfigured:  # of a newer version of Millstream
        return {}
    known = windows(settings, AppParts())
    whole = fitted(template, sizes_of(template, known, default=settings.default_model))
    told: dict[str, int] = {}
    for size in sizes_by_model(template):
        of_memory, _, name = size.rpartition(".")
        told[size] = getattr(whole.memory if of_memory else whole, name)
    return told


def _tell(outcomes: tuple[Outcome, ...], *, as_json: bool) -> None:
    for one in outcomes:
        event = one.event
        if as_json:
            facts = {"name": event.name, "version": event.version, "done": one.done}
            print_json(facts)
        else:
            print_data(f"{event.name} {event.version}: {_TOLD[one.done]}")


def _able(one: AppliedTemplate, members: tuple[LaneMember, ...]) -> int:
    return sum(
        member.can_run is not None and one.key in member.can_run.versions for member in members
    )


def _facts(one: AppliedTemplate, members: tuple[LaneMember, ...]) -> dict[str, object]:
    event = one.event
    return {
        "name": event.name,
        "version": event.version,
        "kind": event.content.get("kind"),
        "state": "retired" if event.retired else "applied",
        "at_ms": event.at_ms,
        "by": event.by,
        "digest": event.digest,
        "workers_able": _able(one, members),
        "workers": len(members),
    }


def _print_table(found: tuple[AppliedTemplate, ...], members: tuple[LaneMember, ...]) -> None:
    newest = {one.event.name: one.event.version for one in found if not one.event.retired}
    own = _of_apps(found, members)
    rows = []
    for one in sorted(found, key=lambda each: (each.event.name, each.offset)):
        event = one.event
        is_newest = newest.get(event.name) == event.version
        state = "retired" if event.retired else "new runs" if is_newest else "older"
        if state == "new runs" and event.name in own and not _able(one, members):
            state = "not here"  # new runs get the one of the workers' app
        rows.append(
            (
                event.name,
                event.version,
                str(event.content.get("kind", "")),
                state,
                f"{_able(one, members)} of {len(members)}",
                time_text(event.at_ms),
                event.by or "",
            )
        )
    print_table(("template", "version", "kind", "state", "workers", "when", "by"), rows)
