"""What is installed: Python, packages, Kafka's jars, and room for data."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement

from millstream.gateway.checks.finding import SETUP, Finding
from millstream.gateway.client_settings import (
    local_settings,
)
from millstream.gateway.installation import HOME, IS_CHECKOUT, downloads_folder

__all__ = ["check_disk", "check_environment", "check_jars", "check_python", "check_requirements"]


_PYTHON_MIN, _PYTHON_BELOW = (3, 11), (3, 14)

_FREE_BYTES_MIN = 2 * 10**9

_NAME = "millstream"


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
    return (Finding("packages", "note", told, SETUP),)


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


async def check_jars() -> tuple[Finding, ...]:
    """Whether Kafka's jars are in the cache; the launcher compares their bytes at each start."""
    lock = (HOME / "infra" / "kafka-jars.lock").read_text(encoding="utf-8")
    names = [line.split()[-1] for line in lock.splitlines() if line and not line.startswith("#")]
    folder = downloads_folder(local_settings().cache) / "jars"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        told = f"{len(missing)} of {len(names)} are not in {folder}"
        how = f"{SETUP}; needed by `millstream up` only" if IS_CHECKOUT else "`up` fetches them"
        return (Finding("kafka jars", "note", told, how),)
    return (Finding("kafka jars", "ok", f"{len(names)} in {folder}"),)


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
