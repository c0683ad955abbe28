"""What the journal costs a run of five steps: beside the same without it, in turns.

A worker each, as it is deployed but for its agent (`steps_worker.py`), whose model and tool take no
time, so that what is left of a step is Millstream's and LangGraph's. Of each step two records are
journalled, the model's answer and the tool's. A record's time is what the agents' loop waits for
it: two ways between the loops, and the lane's transaction.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaProducer

from benchmarks.programs.client import Caller, Side, calling, cpu_s
from benchmarks.report import Figure, percentile
from benchmarks.sides import deployment, worker_side
from millstream.streams.broker.clients import connecting
from millstream.streams.settings import Settings

__all__ = ["run"]

STEPS = 5
ROUNDS = 5
ALONE = 40
"""Runs of a round that are asked for one by one."""
TOGETHER = 96
IN_FLIGHT = 16
COMMIT_P50_MS_MAX = 6.0
_TEXT = f"steps: {STEPS} of 500"


@dataclass(slots=True)
class _Samples:
    """What was measured of a side, by round."""

    alone_ms: list[float] = field(default_factory=list)
    alone_cpu_ms: list[float] = field(default_factory=list)
    together_cpu_ms: list[float] = field(default_factory=list)
    rate_per_s: list[float] = field(default_factory=list)


def run(settings: Settings) -> Iterator[Figure]:
    """Measure. Raises `RuntimeError` if a process fails, `TimeoutError` if one is too slow."""
    folders = {name: settings.data_dir / f"steps-{name}" for name in ("journal", "no_journal")}
    with ExitStack() as stack:
        sides = []
        for name, folder in folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            program = ["-m", "benchmarks.programs.steps_worker", str(folder)]
            if name == "no_journal":
                program.append("off")
            sides.append(worker_side(name, deployment(settings), stack, program=program))
        measured = asyncio.run(_measure(settings, sides, folders["journal"] / "commits"))
    samples, alone_ms, in_flight_ms = measured
    for name, one in samples.items():
        yield Figure(f"{name}_run_p50", statistics.median(one.alone_ms), "ms")
        yield Figure(f"{name}_run_cpu", statistics.median(one.alone_cpu_ms), "ms/run")
        yield Figure(
            f"{name}_{IN_FLIGHT}_in_flight_rate", statistics.median(one.rate_per_s), "runs/s"
        )
        together_ms = statistics.median(one.together_cpu_ms)
        yield Figure(f"{name}_{IN_FLIGHT}_in_flight_cpu", together_ms, "ms/run")
    on, off = samples["journal"], samples["no_journal"]
    yield Figure("journal_step_latency", _more(on.alone_ms, off.alone_ms), "ms/step")
    yield Figure("journal_step_cpu", _more(on.alone_cpu_ms, off.alone_cpu_ms), "ms/step")
    more_ms = _more(on.together_cpu_ms, off.together_cpu_ms)
    yield Figure(f"journal_step_cpu_{IN_FLIGHT}_in_flight", more_ms, "ms/step")
    p50_ms = percentile(alone_ms, 50)
    yield Figure("journal_commit_p50", p50_ms, "ms", COMMIT_P50_MS_MAX, at_most=True)
    yield Figure("journal_commit_p99", percentile(alone_ms, 99), "ms")
    p50_ms = percentile(in_flight_ms, 50)
    yield Figure(f"journal_commit_{IN_FLIGHT}_in_flight_p50", p50_ms, "ms")


def _more(on: list[float], off: list[float]) -> float:
    """Give what a step takes more: rounds that were side by side are compared."""
    return statistics.median(one - other for one, other in zip(on, off, strict=True)) / STEPS


async def _measure(
    settings: Settings, sides: list[Side], commits: Path
) -> tuple[dict[str, _Samples], list[float], list[float]]:
    """Give the samples by side, and what each record took, of runs alone and of those together."""
    samples = {side.name: _Samples() for side in sides}
    alone_ms: list[float] = []
    together_ms: list[float] = []
    async with AsyncExitStack() as stack:
        producer = AIOKafkaProducer(**connecting(settings), enable_idempotence=True)
        await producer.start()
        stack.push_async_callback(producer.stop)
        callers = [
            await stack.enter_async_context(calling(settings, side, producer)) for side in sides
        ]
        for caller in callers:  # to warm up
            await caller.load(ALONE, 1, text=_TEXT)
            await caller.load(TOGETHER // 2, IN_FLIGHT, text=_TEXT)
        for _ in range(ROUNDS):
            for caller in callers:
                one = samples[caller.side.name]
                before = _lines(commits)
                one.alone_ms.append(await _alone(caller, one))
                alone_ms += map(float, _lines(commits)[len(before) :])
                before = _lines(commits)
                await _together(caller, one)
                together_ms += map(float, _lines(commits)[len(before) :])
    return samples, alone_ms, together_ms


async def _alone(caller: Caller, samples: _Samples) -> float:
    before_s = cpu_s(caller.side.pid)
    took_s = await caller.load(ALONE, 1, text=_TEXT)
    samples.alone_cpu_ms.append((cpu_s(caller.side.pid) - before_s) * 1000 / ALONE)
    return percentile(took_s, 50) * 1000


async def _together(caller: Caller, samples: _Samples) -> None:
    loop = asyncio.get_running_loop()
    before_s, began_s = cpu_s(caller.side.pid), loop.time()
    await caller.load(TOGETHER, IN_FLIGHT, text=_TEXT)
    samples.rate_per_s.append(TOGETHER / (loop.time() - began_s))
    samples.together_cpu_ms.append((cpu_s(caller.side.pid) - before_s) * 1000 / TOGETHER)


def _lines(commits: Path) -> list[str]:
    return commits.read_text("ascii").splitlines() if commits.exists() else []
