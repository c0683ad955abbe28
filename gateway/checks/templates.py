"""The workers that run, the templates that they can run, and the runs that wait for others."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator

from millstream.gateway.checks.finding import Finding
from millstream.gateway.client_settings import UP_STARTS, is_up_starting, settings_for_client
from millstream.schemas.errors import MillstreamError
from millstream.schemas.lane_events import TemplateWait
from millstream.schemas.topics import TEMPLATES
from millstream.streams.broker.topic_admin import partition_counts
from millstream.streams.bus.kafka import KafkaLog
from millstream.streams.consumer.capabilities import Capabilities
from millstream.streams.consumer.members import LaneMember, lane_group, lane_members
from millstream.streams.history.open_runs import runs_lacking
from millstream.streams.settings import Settings
from millstream.streams.templates.records import AppliedTemplate
from millstream.streams.templates.registry import TemplateRegistry

__all__ = ["check_workers", "templates_found", "waits_of_members", "workers_found"]

_WORKERS_SHOWN = 8


async def check_workers() -> tuple[Finding, ...]:
    """Which workers run, whether they can run each template that was applied, and who waits."""
    try:
        settings = settings_for_client()
        members = await lane_members(settings)
    except MillstreamError:
        return ()  # told by the check of Kafka, or that of rights
    workers = workers_found(members, group=lane_group(settings), starts=is_up_starting(settings))
    return (workers, *await _templates(settings, members))


async def _templates(settings: Settings, members: tuple[LaneMember, ...]) -> tuple[Finding, ...]:
    try:
        await partition_counts(settings, [settings.topic(TEMPLATES.name)])
        applied = await TemplateRegistry(settings).all()
    except MillstreamError:
        return ()  # told by the check of topics
    try:
        waiting = await runs_lacking(KafkaLog(settings), settings)
    except MillstreamError:  # this user may not read it: what workers say is less, but something
        return templates_found(applied, members, waits_of_members(members), counted=False)
    return templates_found(applied, members, waiting)


def workers_found(members: tuple[LaneMember, ...], *, group: str, starts: bool = False) -> Finding:
    """Say which workers are in the group whose lanes run agents; `starts`: `up` is being started.

    A broker keeps a member that was killed until its session is over, and tells no difference.
    """
    if not members and starts:
        return Finding("workers", "note", UP_STARTS, "ask again in a moment")
    if not members:
        told = f"none is in the group {group}: requests wait, and so do runs that have begun"
        return Finding("workers", "wrong", told, _NO_WORKER_REMEDY)
    shown = ", ".join(one.worker for one in members[:_WORKERS_SHOWN])
    more = f" and {len(members) - _WORKERS_SHOWN} more" if len(members) > _WORKERS_SHOWN else ""
    told = (
        f"{len(members)} in the group {group}: {shown}{more}; one that crashed is among them for "
        "its session time-out (10 s by default)"
    )
    return Finding("workers", "ok", told)


def waits_of_members(members: tuple[LaneMember, ...]) -> tuple[TemplateWait, ...]:
    """Give what members said that requests wait for when the group was last dealt, each once."""
    needs = {need for member in members for needs in member.waits.values() for need in needs}
    return tuple(
        TemplateWait(template=name, version=version, since_ms=0) for name, version in needs
    )


def templates_found(
    applied: tuple[AppliedTemplate, ...],
    members: tuple[LaneMember, ...],
    waiting: Iterable[TemplateWait] = (),
    *,
    counted: bool = True,
) -> tuple[Finding, ...]:
    """Give what is to be said of templates that were applied, and of what runs wait for.

    It goes by what live workers can run. `counted`: `waiting` has an item for each run, else only
    one for each thing that some wait for.
    """
    known = {member.worker: member.can_run for member in members if member.can_run is not None}
    if members and not known:
        return ()  # all are of a version that does not say
    found = [*_waiting(waiting, known.values(), counted=counted)]
    if not known:
        return tuple(found)
    for one in applied:
        if one.event.retired or any(one.key in can.versions for can in known.values()):
            continue
        told = f"no live worker can run {one.event.name!r}, version {one.event.version!r}"
        found.append(Finding("templates", "wrong", told, _LACKING_REMEDY))
    everything = frozenset[str]().union(*(can.names for can in known.values()))
    for worker, can in known.items():
        if lacks := everything - can.names:
            told = f"worker {worker} lacks {', '.join(sorted(lacks))}, which others have"
            found.append(Finding("templates", "note", told, _APART_REMEDY))
    if not found:
        told = f"{len(everything)}, which each of {len(known)} workers can run"
        found.append(Finding("templates", "ok", told))
    return tuple(found)


def _waiting(
    waiting: Iterable[TemplateWait], abilities: Iterable[Capabilities], *, counted: bool
) -> Iterator[Finding]:
    able = tuple(abilities)
    waits = Counter((one.template, one.version or "", one.tools) for one in waiting)
    for (name, version, tools), count in sorted(waits.items()):
        there = any(can.meet((name, version or None)) for can in able)
        if not version:
            if not there:
                who = _who("request", count, counted=counted)
                told = f"{who} for template {name!r}: no live worker has it"
                yield Finding("templates", "note", told, _WAITING_REMEDY)
            continue
        told = f"{_who('run', count, counted=counted)} for template {name!r}, version {version!r}"
        told += f", with {', '.join(tools)}" if tools else ""
        # No worker says which tools its templates have: only whether all of them are there.
        if not there:
            lacks = " with its tools" if tools or not counted else ""
            told += f", which they began with: no live worker has it{lacks}"
            yield Finding("templates", "wrong", told, _stranded_remedy(name, version))
        elif counted:
            told += ", or did before they went on: a live worker has it"
            shows = _list_command(name, version)
            yield Finding("templates", "note", told, f"`{shows}` shows who waits still")


def _who(noun: str, count: int, *, counted: bool) -> str:
    if not counted:
        return f"{noun}s wait"
    return f"1 {noun} waits" if count == 1 else f"{count} {noun}s wait"


def _list_command(name: str, version: str) -> str:
    words = ["millstream", "runs", "list", "--state", "lacking"]
    return shlex.join([*words, "--template", name, "--version", version])


def _stranded_remedy(name: str, version: str) -> str:
    return (
        "they wait until it is there, however long, and their sessions behind them: "
        f"`{_list_command(name, version)}` shows them. Start a worker that has it and reaches its "
        "MCP servers, beside the newer ones; or `millstream templates apply` its file; or have "
        "them go on with another version by `millstream runs migrate`; or `millstream cancel` them"
    )


_LACKING_REMEDY = (
    "its tools are missing in the workers' apps, or they are older than the template; their logs "
    "say which (`template cannot be run here`). Deploy an app that has them, or retire it"
)

_WAITING_REMEDY = "check the name that upstreams send, or start a worker that has it"

_APART_REMEDY = (
    "while a deploy is under way that is as it should be. Apps that differ for good do better in "
    "namespaces of their own (MILLSTREAM_NAMESPACE): here each request waits for its worker"
)

_NO_WORKER_REMEDY = (
    "start one: `millstream worker --app APP`, or `millstream up` or `dev APP`, which start one "
    "beside the services; one that was started just now joins within seconds"
)
