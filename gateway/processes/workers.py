"""A worker process that is kept running: one that dies is started again, ever more patiently."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from millstream.gateway.processes.children import Child, ChildEnded, log_before, module_command
from millstream.streams.settings import Role, Settings, child_environment

__all__ = ["KeptWorker", "RestartPolicy", "end_in_a_sentence"]

READY_TIMEOUT_S = 120.0
# Behind the grace of its runs; a worker that is stuck ends itself before.
CLOSING_S = 20.0


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The wait before a restart doubles, `first_s` to `max_s`; `healthy_s` of work reset it."""

    first_s: float = 0.5
    max_s: float = 30.0
    healthy_s: float = 60.0

    def wait_s(self, failures: int) -> float:
        """Give the seconds to wait after so many failures in a row, from 1."""
        return float(min(self.max_s, self.first_s * 2.0 ** min(failures - 1, 32)))


@dataclass(slots=True)
class KeptWorker:
    """`python -m millstream.gateway worker` as a child.

    `log` is the file that it writes to, where it does not write `to_terminal`, as we do.
    """

    settings: Settings
    roles: frozenset[Role]
    tell: Callable[[str], None]
    restarts: RestartPolicy = field(default_factory=RestartPolicy)
    metrics_url: str = ""
    to_terminal: bool = False
    _child: Child | None = None

    @property
    def log(self) -> Path:
        """Its log."""
        return self.settings.data_dir / "worker.log"

    async def start(self) -> None:
        """Start it and wait until it serves; raises `ChildEnded`."""
        self._child = await Child.start(
            "worker",
            module_command("millstream.gateway", "worker", "--role", ",".join(sorted(self.roles))),
            log=None if self.to_terminal else self.log,
            environment=child_environment(self.settings),
        )
        line = await self._child.ready_line(READY_TIMEOUT_S)
        self.metrics_url = str(json.loads(line)["metrics_url"])

    async def died(self) -> ChildEnded:
        """Wait until it ends by itself; gives the error that says so."""
        assert self._child is not None  # noqa: S101  it was started
        await self._child.wait()
        return self._child.ended()

    async def keep(self) -> None:
        """Start it again whenever it ends; for ever."""
        failures = 0
        while True:
            began = time.monotonic()
            ended = await self.died()
            failures = 1 if time.monotonic() - began > self.restarts.healthy_s else failures + 1
            wait_s = self.restarts.wait_s(failures)
            self.tell(f"{self._told(ended)}; it is started again in {wait_s:g} s")
            await asyncio.sleep(wait_s)
            try:
                await self.start()
            except ChildEnded as error:
                self.tell(self._told(error))
                if error.exit_code is None:
                    await self.stop()
            else:
                self.tell(f"the worker serves again; its metrics: {self.metrics_url}")

    def _told(self, ended: ChildEnded) -> str:
        return end_in_a_sentence(ended, None if self.to_terminal else self.log)

    async def stop(self) -> None:
        """Let what runs come to its end, then end it; does nothing if it never started."""
        if self._child is not None:
            await self._child.stop(self.settings.shutdown_grace_s + CLOSING_S)


def end_in_a_sentence(ended: ChildEnded, log: Path | None) -> str:
    """Say that a program ended, and where it is told why; without a `log` it was on the terminal.

    The lines of its log are for whoever looks for them: beside what `up` says they look like more
    that went wrong. What was killed had no time to say anything.
    """
    if ended.exit_code == -signal.SIGKILL:
        return f"{ended.what}: by somebody, or by the system, where memory is short"
    if log is None:
        return f"{ended.what}, and said why above"
    return f"{ended.what}; its log says why: {log}, or {log_before(log)} once the next one runs"
