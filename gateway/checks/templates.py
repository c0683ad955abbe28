"""The templates that were applied, and the workers that can run them."""

from __future__ import annotations

from millstream.gateway.checks.finding import Finding
from millstream.gateway.client_settings import (
    settings_for_client,
)
from millstream.schemas.errors import MillstreamError
from millstream.schemas.topics import TEMPLATES
from millstream.streams.broker.topic_admin import partition_counts
from millstream.streams.consumer.members import LaneMember, lane_members
from millstream.streams.templates.records import AppliedTemplate
from millstream.streams.templates.registry import TemplateRegistry

__all__ = ["check_templates", "templates_found"]


async def check_templates() -> tuple[Finding, ...]:
    """Whether some live worker can run each template that was applied, and all the same ones."""
    try:
        settings = settings_for_client()
        await partition_counts(settings, [settings.topic(TEMPLATES.name)])
        applied = await TemplateRegistry(settings).all()
        members = await lane_members(settings)
    except MillstreamError:
        return ()  # told by the check of Kafka
    return templates_found(applied, members)


def templates_found(
    applied: tuple[AppliedTemplate, ...], members: tuple[LaneMember, ...]
) -> tuple[Finding, ...]:
    """Give what is to be said of templates that were applied, by what live workers can run."""
    known = {member.worker: member.can_run for member in members if member.can_run is not None}
    if not known:
        return ()  # no worker is there, or all are of a version that does not say
    found = []
    for one in applied:
        if one.event.retired or any(one.key in can.versions for can in known.values()):
            continue
        told = f"no live worker can run {one.event.name!r}, version {one.event.version!r}"
        found.append(Finding("templates", "wrong", told, _LACKING_REMEDY))
    waiting = {need for member in members for needs in member.waits.values() for need in needs}
    for name, version in sorted(waiting, key=str):
        if not any(can.meet((name, version)) for can in known.values()):
            wanted = f"template {name!r}"
            if version is None:
                told = f"requests wait for {wanted}: no live worker has it"
                found.append(Finding("templates", "note", told, _WAITING_REMEDY))
                continue
            told = f"runs wait for {wanted}, version {version!r}, which they began with: no live "
            told += "worker has it with its tools"
            found.append(Finding("templates", "wrong", told, _STRANDED_REMEDY))
    everything = frozenset[str]().union(*(can.names for can in known.values()))
    for worker, can in known.items():
        if lacks := everything - can.names:
            told = f"worker {worker} lacks {', '.join(sorted(lacks))}, which others have"
            found.append(Finding("templates", "note", told, _APART_REMEDY))
    if not found:
        told = f"{len(everything)}, which each of {len(known)} workers can run"
        found.append(Finding("templates", "ok", told))
    return tuple(found)


_LACKING_REMEDY = (
    "its tools are missing in the workers' apps, or they are older than the template; their logs "
    "say which (`template cannot be run here`). Deploy an app that has them, or retire it"
)

_WAITING_REMEDY = "check the name that upstreams send, or start a worker that has it"

_STRANDED_REMEDY = (
    "they wait until it is there, however long, and their sessions behind them: start a worker "
    "that has it and reaches its MCP servers, beside the newer ones, or cancel them. "
    "`millstream runs list --state lacking` shows them"
)

_APART_REMEDY = (
    "while a deploy is under way that is as it should be. Apps that differ for good do better in "
    "namespaces of their own (MILLSTREAM_NAMESPACE): here each request waits for its worker"
)
