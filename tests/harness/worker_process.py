"""Real `millstream worker` processes, for tests that end them in ways that workers must survive."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from millstream.streams.connection_settings import ConnectionSettings
from millstream.streams.settings import Settings, child_environment
from tests.services.users import acting_as

ROOT = Path(__file__).parents[2]

WORKER = ("millstream.gateway", "worker")

READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 40.0


class WorkerProcess:
    """A worker of its own process. Its log goes to a file, told when it does not get ready."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.info: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        """Give its process id."""
        return self._process.pid

    @property
    def log(self) -> str:
        """Give what it has written on standard error so far."""
        return self._log.read_text(encoding="utf-8")

    @property
    def ended_already(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    async def ready(self) -> None:
        """Wait for its line of JSON: requests are served."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            line = b""
        assert line, f"the worker did not get ready:\n{self.log[-4000:]}"
        self.info = json.loads(line)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def ended(self, timeout_s: float | None = STOP_TIMEOUT_S) -> int:
        """Wait for its end, and give the exit code; `None`: as long as it takes."""
        async with asyncio.timeout(timeout_s):
            return await self._process.wait()

    async def kill(self) -> None:
        """End it as a power cut would."""
        if self._process.returncode is None:
            self._process.kill()
        await self.ended()


@asynccontextmanager
async def worker_process(
    settings: Settings,
    *,
    roles: str = "lanes,views",
    name: str = "worker",
    program: Sequence[str] = WORKER,
    **more: str,
) -> AsyncIterator[WorkerProcess]:
    """Start a worker with `settings` (and `more` variables); killed at the end if it still runs.

    `program` is the module that works, and its first arguments. On a secure Kafka it runs as the
    worker's user.
    """
    settings = acting_as(settings, "worker")
    environment = {
        name: value
        for name, value in os.environ.items()  # noqa: TID251  a child's environment is made here
        if not name.startswith("MILLSTREAM_")
    }
    given = {
        "MILLSTREAM_KAFKA": settings.kafka,
        "MILLSTREAM_REDIS_URL": settings.redis_url,
        "MILLSTREAM_NAMESPACE": settings.namespace,
        "MILLSTREAM_PARTITIONS": str(settings.partitions),
        "MILLSTREAM_DATA_DIR": str(settings.data_dir / name),
        "MILLSTREAM_DEFAULT_MODEL": "scripted",
        "MILLSTREAM_SCRIPTED_MODEL": "on",
        "MILLSTREAM_SESSION_TIMEOUT_S": "6",
        **_connections(settings),
        **more,
    }
    log = settings.data_dir / f"{name}.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *program,
            "--role",
            roles,
            cwd=ROOT,
            env={**environment, **given},
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=stderr,
        )
    worker = WorkerProcess(process, log)
    try:
        yield worker
    finally:
        await worker.kill()


def _connections(settings: Settings) -> dict[str, str]:
    """Give the variables of what secures its connections."""
    names = {f"MILLSTREAM_{name.upper()}" for name in ConnectionSettings.model_fields}
    return {name: value for name, value in child_environment(settings).items() if name in names}
