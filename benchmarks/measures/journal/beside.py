"""The agent of many steps beside the same on DBOS and on LangGraph's saver, both on PostgreSQL.

All commit each call of the model and of the tool before the next one. The sides take turns in each
round. Millstream is asked over Kafka, streams steps and writes a result besides; the peers are
called in their own process. Each has one worker. Kafka has `acks=all` on the brokers that there
are, and leaves it to the system when a page goes to the disk; PostgreSQL waits for `fsync`. Bytes
are those of the database after a checkpoint, with its log ahead of it beside them, and those of all
segments of Millstream's topics.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measures.journal.step_sides import Asking, Loaded, Millstream, OnPostgres, StepSide
from benchmarks.peers.install import PythonMissing
from benchmarks.peers.postgres import PostgresMissing, postgres
from benchmarks.programs.step_agent import asked, repeated, text_bytes
from benchmarks.report import Figure, percentile
from millstream.schemas.topics import JOURNAL
from millstream.streams.settings import Settings

__all__ = ["run"]

PEERS = ("dbos", "langgraph")
IN_FLIGHT = 16
HELD = "steps: 100 of 2000, held at 50"
HELD_TIMEOUT_S = 120.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Work:
    """How often the agent runs in a round: `alone` one by one, `together` `IN_FLIGHT` at once."""

    text: str
    rounds: int
    alone: int
    together: int


WORKS = (Work("steps: 5 of 500", 4, 20, 64), Work("steps: 100 of 2000", 2, 2, 16))


@dataclass(slots=True)
class _Samples:
    """What was measured of a side, by round; the bytes are those of `runs` one by one."""

    alone: list[Loaded] = field(default_factory=list)
    together: list[Loaded] = field(default_factory=list)
    stored: int = 0
    journal: int = 0
    logged: int = 0
    runs: int = 0


def run(settings: Settings) -> Iterator[Figure]:
    """Measure. A side that cannot be had is left out, and it is said why.

    Raises `RuntimeError` if a process fails, `TimeoutError` if one is too slow.
    """
    with ExitStack() as stack:
        sides: list[StepSide] = [Millstream(settings)]
        try:
            database = stack.enter_context(postgres())
            sides += [OnPostgres(name, settings, database) for name in PEERS]
        except (PostgresMissing, PythonMissing) as missing:
            print(f"peers skipped: {missing}", flush=True)
        for work in WORKS:
            for name, samples in asyncio.run(_measure(sides, work)).items():
                yield from _figures(name, work, samples)
        for side in sides:
            again = asyncio.run(_lost(side))
            print(f"{side.name} repeated: {', '.join(again) or 'none'}", flush=True)
            yield Figure(f"{side.name}_repeated", len(again), "calls")


async def _measure(sides: list[StepSide], work: Work) -> dict[str, _Samples]:
    samples = {side.name: _Samples() for side in sides}
    async with AsyncExitStack() as stack:
        asking = [await stack.enter_async_context(side.asking()) for side in sides]
        for one in asking:
            await one.load(work.text, min(work.alone, 5), 1)
            await one.load(work.text, min(work.together, IN_FLIGHT), IN_FLIGHT)
        for _ in range(work.rounds):
            for side, one in zip(sides, asking, strict=True):
                await _round(side, one, work, samples[side.name])
    return samples


async def _round(side: StepSide, one: Asking, work: Work, samples: _Samples) -> None:
    # Of runs one by one: what runs at once say alike, a broker compresses in one batch.
    stored, logged, journal = side.stored(), side.logged(), _journal(side)
    samples.alone.append(await one.load(work.text, work.alone, 1))
    # The log first: a checkpoint, which the size asks for, is written to it as well.
    samples.logged += side.logged() - logged
    samples.stored += side.stored() - stored
    samples.journal += _journal(side) - journal
    samples.runs += work.alone
    samples.together.append(await one.load(work.text, work.together, IN_FLIGHT))


def _journal(side: StepSide) -> int:
    return side.stored(JOURNAL.name) if isinstance(side, Millstream) else 0


def _figures(side: str, work: Work, samples: _Samples) -> Iterator[Figure]:
    steps = asked(work.text).steps
    for in_flight, loads in ((1, samples.alone), (IN_FLIGHT, samples.together)):
        name = f"{side}_{steps}_steps_{in_flight}_in_flight"
        rate = statistics.median(len(one.took_s) / one.all_s for one in loads)
        yield Figure(f"{name}_rate", rate, "runs/s")
        yield Figure(f"{name}_steps_rate", rate * steps, "steps/s")
        took_ms = [1000 * took / steps for one in loads for took in one.took_s]
        yield Figure(f"{name}_step_p50", percentile(took_ms, 50), "ms")
        yield Figure(f"{name}_step_p99", percentile(took_ms, 99), "ms")
        cpu_ms = statistics.median(1000 * one.cpu_s / len(one.took_s) / steps for one in loads)
        yield Figure(f"{name}_step_cpu", cpu_ms, "ms/step")
    text = text_bytes(asked(work.text))
    of = {"stored": samples.stored, "journal": samples.journal, "log": samples.logged}
    for name, size in of.items():
        if size:
            each = size / samples.runs
            yield Figure(f"{side}_{steps}_steps_{name}", each / 1000, "kB/run")
            yield Figure(f"{side}_{steps}_steps_{name}_over_text", each / text, "times")


async def _lost(side: StepSide) -> list[str]:
    """Kill a process in the middle of a run; give which calls the next one had made before."""
    async with side.asking() as first:
        await first.begin(HELD)
        await _held(side.folder, 1)
        os.kill(first.pid, signal.SIGKILL)
    async with side.asking() as second:
        await second.resume()
        await _held(side.folder, 2)
        return repeated((side.folder / "calls").read_text("ascii").splitlines())


async def _held(folder: Path, times: int) -> None:
    until_s = time.monotonic() + HELD_TIMEOUT_S
    log = folder / "held"
    while not log.exists() or len(log.read_text("ascii").splitlines()) < times:
        if time.monotonic() > until_s:
            message = f"{folder.name} did not get to its step {times} times"
            raise TimeoutError(message)
        await asyncio.sleep(_POLL_S)
