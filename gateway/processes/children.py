"""One child process of `up` and `demo`: it cannot outlive us, and its log is in a file."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import structlog

from millstream.schemas.errors import MillstreamError

__all__ = ["Child", "ChildEnded", "log_before", "log_tail", "module_command"]

_log = structlog.get_logger(__name__)

_TAIL_BYTES = 4096
_TAIL_LINES = 12


class ChildEnded(MillstreamError):
    """A program that we started ended by itself, or did not get ready in time.

    The message holds the end of its log, `what` only what happened; `exit_code` is `None` while it
    ran.
    """

    code = "child_ended"

    def __init__(self, what: str, exit_code: int | None, told: str = "") -> None:
        super().__init__(f"{what}. {told}" if told else what)
        self.what = what
        self.exit_code = exit_code


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-code}"


def module_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Give the command line that runs a module of ours, whatever stands in the working folder.

    Without `-P` a folder `yaml` or `schemas` there would be taken for the package of that name.
    """
    return (sys.executable, "-P", "-m", module, *arguments)


class Child:
    """A running program in a session of its own, so that Ctrl-C in a terminal reaches only us.

    It is killed by the kernel when the thread that started it dies: start it from the main thread.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path | None) -> None:
        """Use `Child.start`."""
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        guarded: bool = True,
    ) -> Child:
        """Start a program in our working folder; its standard error goes to `log`, or to ours.

        The log of the one before it is kept, see `log_before`. A program that is not `guarded` must
        end by itself at the end of its standard input.
        """
        guard = (
            module_command("millstream.infra.processes.guard", str(os.getpid())) if guarded else ()
        )
        with _log_file(log) as errors:
            process = await asyncio.create_subprocess_exec(
                *guard,
                *command,
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        return cls(name, process, log)

    async def ready_line(self, timeout_s: float) -> str:
        """Wait for the line on standard output by which it says that it is ready.

        Raises `ChildEnded` if it ends before, or does not say so in time.
        """
        assert self._process.stdout is not None  # noqa: S101  it was started with a pipe
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
                if not line:
                    await self._process.wait()
        except TimeoutError:
            what = f"the {self.name} is not ready after {timeout_s:g} s"
            raise ChildEnded(what, None, self._told()) from None
        if not line:
            raise self.ended()
        return line.decode()

    async def wait(self) -> int:
        """Wait for its end; gives the exit code, negative for a signal."""
        return await self._process.wait()

    def ended(self) -> ChildEnded:
        """Build the error for a program that ended by itself."""
        code = self._process.returncode
        return ChildEnded(f"the {self.name} {_how(code)}", code, self._told())

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    async def stop(self, grace_s: float) -> None:
        """Send SIGTERM, and SIGKILL after `grace_s` or if we are cancelled; returns at its end."""
        # Not the end of its input too: the launcher would take it for a second, impatient wish.
        try:
            async with asyncio.timeout(grace_s):
                self._signal(signal.SIGTERM)
                await self._process.wait()
        except TimeoutError:
            _log.warning("killed, for it did not stop in time", name=self.name, grace_s=grace_s)
        finally:
            self._signal(signal.SIGKILL)
            await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        # It may end between our look at it and the signal.
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _told(self) -> str:
        if self.log is None:
            return "It said why above."
        return f"The end of its log, {self.log}:\n{log_tail(self.log)}"


@contextmanager
def _log_file(log: Path | None) -> Iterator[BinaryIO | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log_before(log))
    with log.open("wb") as file:
        yield file


def log_before(log: Path) -> Path:
    """Give where the log of the program before is."""
    return log.with_name(f"{log.name}.1")


def log_tail(path: Path) -> str:
    """Give the last lines of a log, at most 12 and 4 KiB, indented."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:]) or "    (it is empty)"
