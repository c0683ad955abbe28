"""The policies that workers go by: whether all have the same, and the one that is named here."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from millstream.gateway.checks.finding import Finding
from millstream.gateway.client_settings import local_settings, policy_of_up, settings_for_client
from millstream.middleware.policy import Policy
from millstream.schemas.errors import MillstreamError
from millstream.streams.consumer.members import LaneMember, lane_members
from millstream.streams.policy_file import load_policy

__all__ = ["check_policies", "policies_found"]

_WORKERS_SHOWN = 4


async def check_policies() -> tuple[Finding, ...]:
    """Whether all workers that run have one policy, and whether it is the one named here."""
    try:
        settings = local_settings()
        members = await lane_members(settings_for_client())
    except MillstreamError:
        return ()  # told by the check of the settings, of Kafka, or that of rights
    (of_up,) = policy_of_up(settings) or (None,)
    path = settings.policy_file or of_up
    if path is None:
        return policies_found(members, None)
    try:
        policy = load_policy(settings.model_copy(update={"policy_file": path}))
    except MillstreamError:
        return policies_found(members, None)  # told by the check of the policy
    return policies_found(members, (path, policy.digest))


def policies_found(
    members: tuple[LaneMember, ...], named: tuple[Path, str] | None
) -> tuple[Finding, ...]:
    """Give what is to be said of the members' policies; `named`: the file here, and its digest.

    Members of versions that do not say which they have are passed over.
    """
    workers: defaultdict[str, list[str]] = defaultdict(list)
    for member in members:
        if member.policy_digest is not None:
            workers[member.policy_digest].append(member.worker)
    if not workers:
        return ()
    found: list[Finding] = []
    if len(workers) > 1:
        each = "; ".join(f"{_told(one, named)}: {_shown(of)}" for one, of in workers.items())
        told = (
            f"workers have {len(workers)} of them, so what holds depends on the partition: {each}"
        )
        found.append(Finding("policies", "wrong", told, _APART_REMEDY))
    if named is not None and named[1] not in workers:
        told = f"no worker has {named[0]} as it is now ({named[1]})"
        if len(workers) == 1:
            told += f": they have {_told(next(iter(workers)), named)}"
        found.append(Finding("policies", "note", told, _UNUSED_REMEDY))
    if not found:
        (digest,) = workers
        told = f"{len(workers[digest])} workers have {_told(digest, named)}"
        found.append(Finding("policies", "ok", told))
    return tuple(found)


def _told(digest: str, named: tuple[Path, str] | None) -> str:
    if named is not None and digest == named[1]:
        return f"{digest}, {named[0]}"
    return f"{digest}, which is none" if digest == Policy().digest else digest


def _shown(workers: list[str]) -> str:
    more = f" and {len(workers) - _WORKERS_SHOWN} more" if len(workers) > _WORKERS_SHOWN else ""
    return ", ".join(workers[:_WORKERS_SHOWN]) + more


_APART_REMEDY = (
    "while a deploy is under way that passes. Else name one file to all of them "
    "(MILLSTREAM_POLICY_FILE) and restart those that have another"
)

_UNUSED_REMEDY = "restart the workers: each reads its policy when it starts"
