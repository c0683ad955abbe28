"""What people wrote: the settings and the policy."""

from __future__ import annotations

from pathlib import Path

from millstream.gateway.checks.finding import Finding
from millstream.gateway.client_settings import (
    local_settings,
    policy_of_up,
)
from millstream.gateway.installation import HOME
from millstream.gateway.policy_globs import globs_without_match
from millstream.middleware.pipeline import build_pipeline
from millstream.middleware.policy import Policy
from millstream.schemas.errors import Misconfigured

__all__ = ["check_policy", "check_policy_globs", "check_settings"]


async def check_settings() -> tuple[Finding, ...]:
    """Whether the settings can be read, and the chain be cut as they say."""
    try:
        settings = local_settings()
        *_, last = build_pipeline(Policy()).split(settings.chain_cuts)
    except Misconfigured as error:
        remedy = "mend it; docs/how-to/configuration.md has every setting"
        return (Finding("settings", "wrong", str(error), remedy),)
    given = len(settings.model_fields_set - {"data_dir"})
    told = f"{given} given, the others by default"
    if not last.reserves_calls:
        told += "; in the cut chain a run reserves all of its model calls at once"
    return (Finding("settings", "ok", told),)


async def check_policy() -> tuple[Finding, ...]:
    """The policy: that of the `up` which runs a worker here, else the file that is named.

    What workers have that were started elsewhere is told by another check.
    """
    settings = local_settings()
    named, up = settings.policy_file, policy_of_up(settings)
    if up is None:
        return _policy(named, "")
    (used,) = up
    apart: tuple[Finding, ...] = ()
    if named is not None and named != used:
        told = f"`millstream up` runs with {used or 'none'}, MILLSTREAM_POLICY_FILE names {named}"
        apart = (Finding("policy", "note", told, "stop `up` and start it with the other one"),)
    return (*apart, *_policy(used, " (that of `millstream up`)"))


def _policy(path: Path | None, whose: str) -> tuple[Finding, ...]:
    if path is None and not whose:
        return (Finding("policy", "note", _POLICY_UNKNOWN, _POLICY_REMEDY),)
    if path is None:
        told = f"none{whose}: everybody may use every template"
        return (Finding("policy", "note", told, _POLICY_REMEDY),)
    try:
        policy = Policy.from_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, Misconfigured) as error:
        return (Finding("policy", "wrong", str(error), f"mend {path}"),)
    told = f"{path}{whose}: {len(policy.users)} users, {len(policy.roles)} roles"
    return (Finding("policy", "ok", told),)


async def check_policy_globs() -> tuple[Finding, ...]:
    """Whether each glob of the policy matches something that is there."""
    settings = local_settings()
    up = policy_of_up(settings)
    path = settings.policy_file if up is None else up[0]
    try:
        idle = await globs_without_match(settings.model_copy(update={"policy_file": path}))
    except Misconfigured:
        return ()  # told by the check of the policy, or by a worker that has this app
    return tuple(
        Finding("policy", "note", f"{glob} matches nothing", _GLOB_REMEDY) for glob in idle
    )


_GLOB_REMEDY = (
    "check how it is written; where it is meant for another app's, name that in MILLSTREAM_APP"
)

_POLICY_UNKNOWN = (
    "none is named here; each worker has the one that it was started with, or its app's (see "
    "`policies` below), and with neither everybody may use every template"
)

_POLICY_REMEDY = (
    "name one by `millstream up --policy FILE`, or to workers in MILLSTREAM_POLICY_FILE; "
    f"{HOME / 'docs' / 'examples' / 'demo-policy.yaml'} shows how"
)
