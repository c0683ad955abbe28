"""Real processes of the command line, and whether any of them is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from millstream.streams.settings import Settings
from tests.services.users import secured_variables, user_of_command, variables_as

PROJECT = Path(__file__).resolve().parents[2]

_STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended and what it wrote."""

    code: int | None
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Up:
    """A running `millstream up`, and the variables of the commands beside it."""

    process: asyncio.subprocess.Process
    environment: dict[str, str]
    log: Path


@asynccontextmanager
async def millstream(
    environment: Mapping[str, str], *arguments: str, folder: Path = PROJECT
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `millstream ARGUMENTS` in a folder; it is killed if it still runs in the end.

    `environment` is added to ours; on a secure Kafka, as the user whose command it is. Its standard
    input is empty, unless something is written there.
    """
    given = variables_as(environment, user_of_command(*arguments))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "millstream.gateway",
        *arguments,
        cwd=folder,
        env={**os.environ, **given},  # noqa: TID251  what a child inherits
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ended(
    process: asyncio.subprocess.Process, timeout_s: float = _STOP_TIMEOUT_S, *, typed: str = ""
) -> Ended:
    """Wait for a program's end; `typed` is what it is given to read."""
    async with asyncio.timeout(timeout_s):
        out, err = await process.communicate(None if process.stdin is None else typed.encode())
    return Ended(process.returncode, out.decode(), err.decode())


async def run(
    environment: Mapping[str, str], *arguments: str, folder: Path = PROJECT, typed: str = ""
) -> Ended:
    """Run `millstream ARGUMENTS` to its end."""
    async with millstream(environment, *arguments, folder=folder) as process:
        return await ended(process, typed=typed)


def as_client(settings: Settings) -> dict[str, str]:
    """Give the variables of a program that talks to the deployment of these settings."""
    named = {"MILLSTREAM_KAFKA": settings.kafka, "MILLSTREAM_NAMESPACE": settings.namespace}
    return named | secured_variables(settings)


async def line_with(stream: asyncio.StreamReader, words: str, timeout_s: float = 60.0) -> str:
    """Read lines up to the first that holds these words, and give it."""
    async with asyncio.timeout(timeout_s):
        async for line in stream:
            if words in line.decode():
                return line.decode()
    message = f"it ended before it wrote {words!r}"
    raise AssertionError(message)


async def interrupt(process: asyncio.subprocess.Process) -> Ended:
    """Press Ctrl-C, which reaches the whole foreground group, and wait for the end."""
    os.killpg(process.pid, signal.SIGINT)
    return await ended(process)


def running_with(variable: str) -> set[int]:
    """Give the ids of the processes, but ours, that have this variable in their environment."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # it ended meanwhile, or is not ours
        if variable.encode() in environment.split(b"\0"):
            found.add(int(entry.name))
    return found
