"""One child process: started guarded, stopped within a bound, with its output in a file."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from millstream.infra.errors import ServiceDied

__all__ = ["ChildProcess", "Command", "guarded", "log_tail"]

_GUARD = Path(__file__).with_name("guard.py")
_TAIL_BYTES = 8192
_TAIL_LINES = 40


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: `argv` with a full program path, its working folder, and its output's file."""

    name: str
    argv: tuple[str, ...]
    folder: Path
    log: Path


class ChildProcess:
    """A running child in a session of its own, so that Ctrl-C in a terminal reaches only us.

    It dies with the thread that starts it (a kernel rule): start it from the main thread.
    """

    def __init__(self, command: Command, process: asyncio.subprocess.Process) -> None:
        """Use `ChildProcess.start`."""
        self._command = command
        self._process = process

    @classmethod
    async def start(cls, command: Command) -> "ChildProcess":
        """Start it; output goes to `command.log`, and the run before it to `<log>.1`."""
        if command.log.exists():
            command.log.replace(command.log.with_name(f"{command.log.name}.1"))
        with command.log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *guarded(command.argv),
                cwd=command.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(command, process)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def log(self) -> Path:
        """File of its output."""
        return self._command.log

    @property
    def running(self) -> bool:
        """True until its end has been seen."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that ended already is left alone."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`; returns when it has ended."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL; returns when it has ended."""
        self.signal(signal.SIGKILL)
        await self.wait()

    def died(self) -> ServiceDied:
        """Build the error for a child that ended by itself, with the end of its log."""
        code = self._process.returncode
        message = (
            f"{self._command.name} ended with exit code {code}. The end of {self._command.log}:\n"
            f"{log_tail(self._command.log)}"
        )
        return ServiceDied(message, code)


def log_tail(path: Path) -> str:
    """Last lines of a log, at most 40 and 8 KiB, indented.

    A broker says first why it ends, and then at length that it does.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:]) or "    (it is empty)"


def guarded(argv: Sequence[str]) -> tuple[str, ...]:
    """Command line that runs `argv` so that it is killed when this process dies."""
    return (sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), *argv)
