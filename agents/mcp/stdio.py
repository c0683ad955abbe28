"""An MCP server that is a program of ours: its standard input and output, held to bounds.

As the SDK's own `stdio_client`, but for what that has no setting for: a line has a bound, a byte
that is no UTF-8 spoils its line and not the connection (python-sdk#2454), the program dies with the
worker even where that is killed, and what it writes to standard error goes to the log, bounded.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCMessage

from millstream.agents.mcp.failures import McpFailed
from millstream.agents.mcp.server import McpServer

__all__ = ["Streams", "running_program"]

Streams = tuple[
    MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]
]
"""What a client session reads from and writes to."""

LINES_LOGGED_MAX: Final = 200
LINE_CHARS_MAX: Final = 500
GRACE_S: Final = 2.0
KILLED_WITHIN_S: Final = 4.0

_STDERR_LINE_BYTES: Final = 65_536

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def running_program(
    server: McpServer, environment: Mapping[str, str]
) -> AsyncIterator[Streams]:
    """Run the server's program; it and its children are gone at the end of the block.

    `environment` is all that it gets. Raises `McpFailed` where it cannot be started.
    """
    process = await _started(server, environment)
    to_session, from_process = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_process, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_read, server, process, to_session)
            tasks.start_soon(_write, process, from_session)
            tasks.start_soon(_log_errors, server.name, process)
            yield from_process, to_process
            tasks.cancel_scope.cancel()
    finally:
        try:
            with anyio.CancelScope(shield=True):
                await _ended(process)
        finally:
            for stream in (to_session, from_process, to_process, from_session):
                stream.close()


async def _started(server: McpServer, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    program = _program_of(server, environment)
    if program is None:
        message = f"the MCP server {server.name!r} has no program {server.command!r} on its PATH"
        raise McpFailed(message)
    # It asks the kernel to be killed with us. Not between fork and exec: we have threads.
    guard = (sys.executable, "-m", "millstream.infra.processes.guard", str(os.getpid()))
    try:
        return await asyncio.create_subprocess_exec(
            *guard,
            program,
            *server.args,
            env=dict(environment),
            cwd=server.cwd,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=server.answer_bytes_max,
            start_new_session=True,
        )
    except OSError as error:
        message = f"the MCP server {server.name!r} cannot be started: {error.strerror}"
        raise McpFailed(message) from error


def _program_of(server: McpServer, environment: Mapping[str, str]) -> str | None:
    assert server.command is not None  # noqa: S101  the caller looked
    program = shutil.which(server.command, path=environment.get("PATH"))
    # Not resolved: a program may look at the name of the link that it was started by.
    return None if program is None else str(Path(program).absolute())


async def _read(
    server: McpServer,
    process: asyncio.subprocess.Process,
    to_session: MemoryObjectSendStream[SessionMessage | Exception],
) -> None:
    assert process.stdout is not None  # noqa: S101  it was started with a pipe
    garbage = 0
    with to_session:
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                # What follows may be the rest of it: nothing can be made of the stream any more.
                _log.error(
                    "an MCP server wrote a line beyond its bound, and is started again",
                    server=server.name,
                    answer_bytes_max=server.answer_bytes_max,
                )
                _signal(process, signal.SIGKILL)
                return
            if not line:
                return
            try:
                message = JSONRPCMessage.model_validate_json(line)
            except ValueError:
                # Servers print what belongs on standard error; it answers nobody.
                garbage += 1
                if garbage > LINES_LOGGED_MAX:
                    continue
                shown = line[:LINE_CHARS_MAX].decode(errors="replace").rstrip()
                _log.warning(
                    "an MCP server wrote what is no message", server=server.name, line=shown
                )
                continue
            try:
                await to_session.send(SessionMessage(message))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # the session was closed as this came


async def _write(
    process: asyncio.subprocess.Process, from_session: MemoryObjectReceiveStream[SessionMessage]
) -> None:
    assert process.stdin is not None  # noqa: S101  it was started with a pipe
    with from_session:
        async for message in from_session:
            line = message.message.model_dump_json(by_alias=True, exclude_none=True)
            # One that ended is seen by its output.
            with suppress(ConnectionError):
                process.stdin.write(line.encode(errors="replace") + b"\n")
                await process.stdin.drain()


async def _log_errors(server: str, process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None  # noqa: S101  it was started with a pipe
    lines = 0
    rest = b""
    while piece := await process.stderr.read(_STDERR_LINE_BYTES):
        *whole, rest = (rest + piece).split(b"\n")
        rest = rest[-_STDERR_LINE_BYTES:]
        for line in whole:
            lines += 1
            if lines <= LINES_LOGGED_MAX:
                shown = line[:LINE_CHARS_MAX].decode(errors="replace").rstrip()
                _log.info("an MCP server wrote", server=server, line=shown)
            elif lines == LINES_LOGGED_MAX + 1:
                _log.info("what an MCP server writes is logged no more", server=server)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End it as MCP says: close its input, wait, ask, and kill it with its children."""
    assert process.stdin is not None  # noqa: S101  it was started with a pipe
    process.stdin.close()
    try:
        for number in (None, signal.SIGTERM):
            if number is not None:
                _signal(process, number)
            if await _ends_within(process, GRACE_S):
                break
    finally:
        # Also where this is cancelled. What it started and left behind is in its group.
        _signal(process, signal.SIGKILL)
        try:
            await _ends_within(process, KILLED_WITHIN_S)
        finally:
            # It has no public way.
            process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001


async def _ends_within(process: asyncio.subprocess.Process, wait_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await process.wait()
            return True
    return False


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
