"""The workers of a drill: started, ended in every way, and started again when they end by it."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from millstream.streams.settings import Settings
from tests.chaos.calls import Kill, Wake
from tests.chaos.load import MODEL
from tests.harness.worker_process import WORKER, WorkerProcess, worker_process
from tests.support import eventually

_OPENED = "lane open"
_SERVES = "ready: "
_MEMORY_EVERY_S = 0.25
_SIZES = ("partitions", "runs_in_flight_max", "runs_per_user_max", "park_after_s", "parked_max")


def _peak_mib(pid: int) -> float:
    told = Path(f"/proc/{pid}/status").read_text(encoding="ascii").partition("VmHWM:")[2]
    return float(told.split()[0]) / 1024 if told else 0.0  # one that has just ended has none


class Crew:
    """Real `millstream worker` processes by name: `a-1`, and in its place `a-2`.

    A worker that ends by itself is started again, as whoever runs workers would; `crashes` counts
    these. `faults` holds what no worker should do: an exit code that is not 0 after SIGTERM.
    """

    def __init__(
        self,
        settings: Settings,
        model_url: str,
        roles: str,
        *,
        program: Sequence[str] = WORKER,
    ) -> None:
        self._settings = settings
        self._model_url = model_url
        self._roles = roles
        self._program = program
        self._stack = AsyncExitStack()
        self._numbers = itertools.count(1)
        self._workers: dict[str, WorkerProcess] = {}
        self._started: dict[str, list[WorkerProcess]] = defaultdict(list)
        self._named: dict[str, str] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self.kills: list[Kill] = []
        self.wakes: list[Wake] = []
        self.crashes = 0
        self.peak_mib = 0.0
        self.faults: list[str] = []

    async def __aenter__(self) -> Self:
        """Nothing is started yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill what still runs."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        await self._stack.aclose()

    @property
    def names(self) -> tuple[str, ...]:
        """Which workers there are."""
        return tuple(self._workers)

    def addresses(self) -> dict[str, str]:
        """Give where each worker that runs tells of itself."""
        return {
            self._named[name]: worker.info["metrics_url"].removesuffix("/metrics")
            for name, worker in self._workers.items()
            if "metrics_url" in worker.info
        }

    @property
    def log_lines(self) -> int:
        """Count the lines that all processes have logged, but for those that each request has."""
        started = (worker for workers in self._started.values() for worker in workers)
        lines = (line for worker in started for line in worker.log.splitlines())
        return sum("request ended" not in line and "request decided" not in line for line in lines)

    async def watch_memory(self) -> None:
        """Keep `peak_mib` up, the most memory that any worker held, until cancelled."""
        while True:
            for worker in self._workers.values():
                if not worker.ended_already:
                    self.peak_mib = max(self.peak_mib, _peak_mib(worker.pid))
            await asyncio.sleep(_MEMORY_EVERY_S)  # noqa: TID251  it is sampled

    def opened(self, name: str) -> int:
        """Count the lanes that all processes of this name have opened."""
        return sum(worker.log.count(_OPENED) for worker in self._started[name])

    async def start(self, *names: str, kafka: str | None = None) -> None:
        """Start workers, and wait until they serve."""
        await asyncio.gather(*(self._launch(name, kafka) for name in names))
        await asyncio.gather(*(self._workers[name].ready() for name in names))

    async def kill(self, name: str) -> None:
        """SIGKILL a worker, and start another one in its place; does not wait until it serves."""
        await self._dismiss(name)
        self.kills.append(Kill(self._named[name], time.time_ns() / 1e6))
        await self._workers.pop(name).kill()
        await self._launch(name, None)

    async def retire(self, name: str) -> None:
        """SIGTERM a worker for good: it must end with exit code 0."""
        await self._dismiss(name)
        worker = self._workers.pop(name)
        # Whoever is told to end while it is still starting ends by the signal itself.
        await eventually(lambda: worker.ended_already or _SERVES in worker.log, timeout_s=90)
        if worker.ended_already:
            return
        worker.signal(signal.SIGTERM)
        code = await worker.ended()
        if code != 0:
            self.faults.append(f"{self._named[name]} ended with {code} after SIGTERM")

    async def retire_all(self) -> None:
        """SIGTERM whoever is left."""
        await asyncio.gather(*(self.retire(name) for name in self.names))

    def stop(self, name: str) -> None:
        """SIGSTOP: it knows nothing of what happens from here on."""
        self._workers[name].signal(signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """SIGCONT."""
        self.wakes.append(Wake(self._named[name], time.time_ns() / 1e6))
        self._workers[name].signal(signal.SIGCONT)

    async def opens_more(self, name: str, than: int, *, timeout_s: float = 60) -> None:
        """Wait until `name` has opened more lanes than `than`: it has been given partitions."""
        await eventually(lambda: self.opened(name) > than, timeout_s=timeout_s)

    async def _launch(self, name: str, kafka: str | None) -> None:
        at = f"{name}-{next(self._numbers)}"
        more = {
            "MILLSTREAM_DEFAULT_MODEL": MODEL,
            "MILLSTREAM_SESSION_TIMEOUT_S": f"{self._settings.session_timeout_s:g}",
            "MILLSTREAM_POLICY_FILE": str(self._settings.policy_file),
            **{f"MILLSTREAM_{name.upper()}": str(getattr(self._settings, name)) for name in _SIZES},
            "OPENAI_BASE_URL": self._model_url,
            # The model logs who called: the key is the worker's name.
            "OPENAI_API_KEY": at,
        }
        if kafka is not None:
            more["MILLSTREAM_KAFKA"] = kafka
        process = worker_process(
            self._settings, roles=self._roles, name=at, program=self._program, **more
        )
        self._workers[name] = await self._stack.enter_async_context(process)
        self._started[name].append(self._workers[name])
        self._named[name] = at
        self._keepers[name] = asyncio.create_task(self._keep(name, kafka))

    async def _dismiss(self, name: str) -> None:
        keeper = self._keepers.pop(name)
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)

    async def _keep(self, name: str, kafka: str | None) -> None:
        await self._workers[name].ended(None)
        self.crashes += 1
        await self._launch(name, kafka)
