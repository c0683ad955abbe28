"""What runs the agent of many steps and is asked for it: Millstream's worker, a peer's program."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiokafka import AIOKafkaProducer

from benchmarks.peers.install import environment
from benchmarks.peers.postgres import Database
from benchmarks.programs.client import Caller, Side, calling, cpu_s
from benchmarks.services import running
from benchmarks.sides import deployment, worker_side
from millstream.schemas.events import AgentRequest
from millstream.streams.broker.clients import connecting
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import Settings, child_environment

__all__ = ["Asking", "Loaded", "Millstream", "OnPostgres", "StepSide"]

LOAD_TIMEOUT_S = 400.0
HELD_RUN = "held-run"
_LINE_BYTES_MAX = 1 << 20
_PYTHON_MIN = (3, 11)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What each run took, all of them together, and the worker's CPU time for them, in seconds."""

    took_s: list[float]
    all_s: float
    cpu_s: float


class Asking(Protocol):
    """Asks a process of one side."""

    @property
    def pid(self) -> int:
        """The process."""

    async def load(self, text: str, runs: int, in_flight: int) -> Loaded:
        """Have the agent run on a text so often. Raises `TimeoutError`."""

    async def begin(self, text: str) -> None:
        """Begin the run that is to be lost."""

    async def resume(self) -> None:
        """Go on with the run that was lost, where the side does not by itself."""


class StepSide(Protocol):
    """A side: it may be started again behind a process that was lost."""

    @property
    def name(self) -> str:
        """What its figures are called."""

    @property
    def folder(self) -> Path:
        """Where `Watch` writes."""

    def asking(self) -> AbstractAsyncContextManager[Asking]:
        """Start a process, which ends with the block, and ask it."""

    def stored(self) -> int:
        """Give the bytes that it stores, or 0 where that cannot be seen."""

    def logged(self) -> int:
        """Give the bytes that it has written to its log."""


class Millstream:
    """A worker as it is deployed, on topics of its own."""

    def __init__(self, settings: Settings) -> None:
        self.name = "millstream"
        self.folder = settings.data_dir / "steps-beside"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._own = deployment(settings)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Asking]:
        """Start a worker, and ask it by its topics."""
        async with AsyncExitStack() as stack:
            processes = stack.enter_context(ExitStack())
            program = ["-m", "benchmarks.programs.steps_worker", str(self.folder)]
            side = worker_side(self.name, self._own, processes, program=program)
            producer = AIOKafkaProducer(**connecting(self._own), enable_idempotence=True)
            await producer.start()
            stack.push_async_callback(producer.stop)
            caller = await stack.enter_async_context(calling(self._own, side, producer))
            yield _ByKafka(self._own, side, caller)

    def stored(self, topic: str = "") -> int:
        """Give the bytes of the segments of its topics, or of one of them, at the broker."""
        found = self._own.data_dir.rglob(f"{self._own.topic(topic)}*/*.log")
        return sum(one.stat().st_size for one in found)

    def logged(self) -> int:
        """Give the same: Kafka's log is all that there is."""
        return self.stored()


class _ByKafka:
    def __init__(self, settings: Settings, side: Side, caller: Caller) -> None:
        self.pid = side.pid
        self._settings = settings
        self._caller = caller

    async def load(self, text: str, runs: int, in_flight: int) -> Loaded:
        before_s, began_s = cpu_s(self.pid), time.perf_counter()
        took_s = await self._caller.load(runs, in_flight, text=text, timeout_s=LOAD_TIMEOUT_S)
        return Loaded(took_s, time.perf_counter() - began_s, cpu_s(self.pid) - before_s)

    async def begin(self, text: str) -> None:
        async with KafkaBus(self._settings) as bus:
            await bus.publish(AgentRequest(user_id="ada", request_id=HELD_RUN, input=text))

    async def resume(self) -> None:
        """Do nothing: whichever worker gets the partition goes on with its runs."""


class OnPostgres:
    """A peer's program on a database of its own."""

    def __init__(self, name: str, settings: Settings, database: Database) -> None:
        self.name = name
        self.folder = settings.data_dir / f"steps-{name}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._python = environment(name, _PYTHON_MIN)
        self._environment = child_environment(settings)
        self._database = database
        self._url = database.create(name)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Asking]:
        """Start its program, and ask it by its socket."""
        program = ["-m", f"benchmarks.peers.{self.name}_steps", self._url, str(self.folder)]
        log = self.folder / "log"
        with running(program, self._environment, log, python=self._python) as process:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", int(str(process.ready["port"])), limit=_LINE_BYTES_MAX
            )
            try:
                yield _BySocket(process.pid, reader, writer)
            finally:
                writer.close()

    def stored(self) -> int:
        """Give the bytes of its database: tables, their indexes and what is beside them."""
        return self._database.size(self.name)

    def logged(self) -> int:
        """Give the bytes of PostgreSQL's log ahead of the tables, which all its databases share."""
        return self._database.wal()


class _BySocket:
    def __init__(
        self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid = pid
        self._reader = reader
        self._writer = writer

    async def load(self, text: str, runs: int, in_flight: int) -> Loaded:
        before_s, began_s = cpu_s(self.pid), time.perf_counter()
        answered = await self._ask({"text": text, "runs": runs, "in_flight": in_flight})
        took_s = answered["took_s"]
        return Loaded(took_s, time.perf_counter() - began_s, cpu_s(self.pid) - before_s)

    async def begin(self, text: str) -> None:
        await self._ask({"begin": HELD_RUN, "text": text})

    async def resume(self) -> None:
        await self._ask({"resume": HELD_RUN})

    async def _ask(self, wanted: dict[str, str | int]) -> dict[str, list[float]]:
        self._writer.write(json.dumps(wanted).encode() + b"\n")
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            line = await self._reader.readline()
        if not line:
            message = f"the program of process {self.pid} broke off"
            raise RuntimeError(message)
        answered: dict[str, list[float]] = json.loads(line)
        return answered
