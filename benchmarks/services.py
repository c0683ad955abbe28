"""What is measured, as real processes: Kafka, Redis, workers and the echo. All end with the run."""

from __future__ import annotations

import json
import os
import platform
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from millstream.streams.connection_settings import ConnectionSettings
from millstream.streams.settings import Settings, child_environment, own_environment

__all__ = [
    "Process",
    "machine",
    "peak_kib",
    "resident_kib",
    "running",
    "secure_services",
    "services",
    "told_settings",
]

PROJECT = Path(__file__).resolve().parent.parent

_SERVICES_READY_TIMEOUT_S = 120.0
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_LOG_TAIL_CHARS = 3000
_MEASURED = ("aiokafka", "faust-streaming", "langchain", "langgraph", "pydantic")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that said in one line of JSON that it is ready."""

    pid: int
    ready: Mapping[str, object]


@contextmanager
def services(data: Path) -> Iterator[Settings]:
    """Give settings with a Kafka and a Redis that answer.

    Those that the environment names are used; else the dev launcher starts them on `data`, and
    they are stopped at the end.
    """
    given = Settings(data_dir=data)
    command = [
        "-m",
        "millstream.infra",
        "up",
        "--until-eof",
        "--data",
        str(data / "services"),
        "--json",
    ]
    with running(
        command, child_environment(given), data / "services.log", _SERVICES_READY_TIMEOUT_S
    ) as launcher:
        yield given.model_copy(
            update={name: str(launcher.ready[name]) for name in ("kafka", "redis_url")}
        )


@contextmanager
def secure_services(data: Path) -> Iterator[tuple[Settings, Path]]:
    """Give a Kafka and a Redis of their own with TLS, users and rights, and the users' folder.

    Nobody but `admin` may do anything there: whoever uses them grants rights first.
    """
    named = ("MILLSTREAM_KAFKA", "MILLSTREAM_REDIS_URL", "MILLSTREAM_KAFKA_CONFIG")
    environment = {**own_environment(), **dict.fromkeys(named, "")}
    at = ("--data", str(data / "services"))
    command = ("-m", "millstream.infra", "up", "--until-eof", "--json", "--secure", *at)
    with running(
        command, environment, data / "services.log", _SERVICES_READY_TIMEOUT_S
    ) as launcher:
        kafka, redis_url = (str(launcher.ready[name]) for name in ("kafka", "redis_url"))
        found = Settings(data_dir=data, kafka=kafka, redis_url=redis_url)
        yield found, Path(str(launcher.ready["secure"]))


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    ready_timeout_s: float = _READY_TIMEOUT_S,
    *,
    python: Path | None = None,
) -> Iterator[Process]:
    """Run a Python program that prints a line of JSON when it is ready; its words go to `log`.

    `python` is the interpreter; none given: our own.

    It is stopped by the end of its input and SIGTERM, after a grace by SIGKILL. Raises
    `RuntimeError` with the end of its log if it does not get ready.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as words:
        process = subprocess.Popen(
            [python or sys.executable, *command],
            cwd=PROJECT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
        )
    try:
        yield Process(process.pid, _ready(process, log, ready_timeout_s))
    finally:
        _stop(process)


def _ready(process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> Mapping[str, object]:
    assert process.stdout is not None  # noqa: S101  it is a pipe
    readable, _, _ = select.select([process.stdout], [], [], timeout_s)
    line = process.stdout.readline() if readable else b""
    if not line:
        told = log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARS:]
        message = f"{process.args!r} is not ready after {timeout_s:g} s, or ended:\n{told}"
        raise RuntimeError(message)
    ready: Mapping[str, object] = json.loads(line)
    return ready


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None  # noqa: S101  they are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.close()
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def resident_kib(pid: int) -> float:
    """Give the memory that a process holds, in KiB."""
    return _of_status(pid, "VmRSS")


def peak_kib(pid: int) -> float:
    """Give the most memory that a process has held so far, in KiB."""
    return _of_status(pid, "VmHWM")


def _of_status(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return float(status.partition(f"{field}:")[2].split()[0])


def machine() -> str:
    """Say on what this runs, and with which versions."""
    versions = " ".join(f"{name} {version(name)}" for name in _MEASURED)
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return (
        f"machine: {os.cpu_count()} CPUs, {platform.machine()}, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}; {versions}; {now}"
    )


def told_settings(settings: Settings) -> str:
    """Say with which settings a worker runs, apart from where things are."""
    where = {"kafka", "redis_url", "namespace", "data_dir", "cache"}
    # Of how services are secured, what is given: secrets are masked.
    where |= set(ConnectionSettings.model_fields) - settings.model_fields_set
    told = settings.model_dump(mode="json", exclude=where)
    return "worker: " + " ".join(f"{name}={value}" for name, value in told.items())
