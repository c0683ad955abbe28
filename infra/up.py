"""The foreground life of `python -m millstream.infra up`: start, say how to connect, watch, stop.

Ends on SIGINT, SIGTERM or SIGHUP (unless that is ignored, as under `nohup`), on the end of standard
input if asked to, or when a service cannot be started again. A second signal while it stops kills
what is left.
"""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

from rich.console import Console

from millstream.infra.hold import hold
from millstream.infra.launcher import Endpoints, Launcher
from millstream.infra.paths import ExternalServices
from millstream.infra.processes.waiting import first
from millstream.infra.redis import without_password

__all__ = ["run"]


async def run(
    data: Path,
    brokers: int | None,
    *,
    secure: bool | None,
    as_json: bool,
    until_eof: bool,
    console: Console,
) -> None:
    """Run until told to stop; raises `InfraError` for a failed start or a service given up."""
    stop = _StopRequests(until_eof=until_eof)
    with hold(data):
        external = ExternalServices.from_environment()
        launcher = Launcher(data, brokers, external, console, secure=secure)
        try:
            await first(_serve(launcher, as_json=as_json, console=console), stop.wait())
        finally:
            if launcher.started:
                console.print("stopping …")
            await first(launcher.stop(), _kill_if_asked_again(launcher, stop))
            if launcher.started:
                console.print("stopped")


async def _serve(launcher: Launcher, *, as_json: bool, console: Console) -> None:
    endpoints = await launcher.start()
    _announce(endpoints, as_json=as_json, console=console)
    await launcher.keep(endpoints)


async def _kill_if_asked_again(launcher: Launcher, stop: "_StopRequests") -> None:
    await stop.wait_again()
    await launcher.kill()


def _announce(endpoints: Endpoints, *, as_json: bool, console: Console) -> None:
    console.print(
        f"services ready in {endpoints.seconds:.1f} s · Ctrl-C stops it\n"
        f"  Kafka  {endpoints.kafka}\n  Redis  {without_password(endpoints.redis_url)}\n"
        f"  data   {endpoints.data}"
    )
    if endpoints.secure is not None:
        console.print(f"  users  {endpoints.secure}/<user>/client.properties")
    # A program that reads our output gets the line without asking; a person only on request.
    if as_json or not sys.stdout.isatty():
        print(endpoints.to_json(), flush=True)  # noqa: T201  this is the command's output


class _StopRequests:
    """Counts the wishes to stop: signals, and the end of standard input."""

    def __init__(self, *, until_eof: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._once = asyncio.Event()
        self._again = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._loop.add_signal_handler(number, self._signalled)
        if until_eof:
            # A thread, since the event loop cannot watch every kind of standard input (a file);
            # a daemon, since its read cannot be interrupted.
            threading.Thread(target=self._read_to_end, daemon=True).start()

    async def wait(self) -> None:
        """Wait for the first wish."""
        await self._once.wait()

    async def wait_again(self) -> None:
        """Wait for a signal after the first wish."""
        await self._again.wait()

    def _signalled(self) -> None:
        (self._again if self._once.is_set() else self._once).set()

    def _read_to_end(self) -> None:
        while os.read(0, 4096):
            pass
        self._loop.call_soon_threadsafe(self._once.set)
