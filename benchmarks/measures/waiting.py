"""A thousand runs that wait for a slow model, on one worker: throughput, and memory of each.

A model call takes two seconds. `waiting_http` makes it as providers are called: by our client over
HTTP, here to a process of its own (`model_server.py`). In `waiting` the scripted model waits inside
the worker, so that what Millstream costs can be told from what the provider's client costs. There
can be no more than 1,000 / 2 s runs per second: that is the ceiling.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer

from benchmarks.programs.client import Caller, Side, calling, cpu_s
from benchmarks.report import Figure, percentile
from benchmarks.services import Process, resident_kib, running
from benchmarks.sides import WORKER, deployment, model_server
from millstream.schemas.topics import REQUESTS, RESULTS
from millstream.streams.broker.clients import connecting
from millstream.streams.settings import Settings, child_environment

__all__ = ["run"]

IN_FLIGHT = 1000
MODEL_S = 2.0
RUNS = 8 * IN_FLIGHT
WARM_UP = 300
WARM_UP_IN_FLIGHT = 16
HELD_S = 20.0
"""How long the model takes while memory is read: long enough for all to be waiting at a time."""
LOAD_TIMEOUT_S = 180.0

RATE_OVER_CEILING_MIN = 0.9
KIB_PER_RUN_MAX = 50.0

_POLL_S = 0.05
_CALLS_OUT_S = 3.0
_RUNS_IN_FLIGHT = re.compile(r"^millstream_runs_in_flight ([\d.]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was measured of a side: of 1,000 runs that wait, then of all under load."""

    kib_per_run: float
    took_s: list[float]
    rate_per_s: float
    cpu_ms_per_run: float


def run(settings: Settings) -> Iterator[Figure]:
    """Measure. Raises `RuntimeError` if a process fails, `TimeoutError` if one is too slow."""
    with ExitStack() as stack:
        provider = model_server(settings, stack)
        for name, model_name in (("waiting", "scripted"), ("waiting_http", "openai:waiting")):
            own = deployment(settings, default_model=model_name)
            environment = {**child_environment(own), **provider}
            # One worker at a time: each is to have the machine.
            with running(WORKER, environment, own.data_dir / f"{name}.log") as worker:
                measured = asyncio.run(_measure(name, own, worker))
            yield from _figures(name, measured)


def _figures(name: str, measured: _Measured) -> Iterator[Figure]:
    yield Figure(f"{name}_rate", measured.rate_per_s, "runs/s")
    share = measured.rate_per_s * MODEL_S / IN_FLIGHT
    yield Figure(f"{name}_rate_over_ceiling", share, "times", RATE_OVER_CEILING_MIN)
    yield Figure(f"{name}_p50", percentile(measured.took_s, 50), "s")
    yield Figure(f"{name}_p99", percentile(measured.took_s, 99), "s")
    yield Figure(f"{name}_worker_cpu", measured.cpu_ms_per_run, "ms/run")
    memory = measured.kib_per_run
    yield Figure(f"{name}_memory_per_run", memory, "KiB", KIB_PER_RUN_MAX, at_most=True)


async def _measure(name: str, own: Settings, worker: Process) -> _Measured:
    side = Side(name, worker.pid, own.topic(REQUESTS.name), own.topic(RESULTS.name))
    producer = AIOKafkaProducer(**connecting(own), enable_idempotence=True)
    await producer.start()
    try:
        async with calling(own, side, producer) as caller:
            await caller.load(WARM_UP, WARM_UP_IN_FLIGHT)
            kib_per_run = await _memory(caller, worker)
            gc.freeze()
            before_s = cpu_s(worker.pid)
            took_s, rate_per_s = await _rate(caller)
            cpu_ms_per_run = (cpu_s(worker.pid) - before_s) * 1000 / RUNS
    finally:
        await producer.stop()
    return _Measured(kib_per_run, took_s, rate_per_s, cpu_ms_per_run)


async def _memory(caller: Caller, worker: Process) -> float:
    """Give the KiB by which the worker grows for each run that waits for its model."""
    idle_kib = resident_kib(worker.pid)
    cue = f"slow: {HELD_S}; say: hello"
    waiting = asyncio.create_task(caller.load(IN_FLIGHT, IN_FLIGHT, text=cue))
    await asyncio.to_thread(_until_all_run, worker)
    grown_kib = resident_kib(worker.pid) - idle_kib
    await waiting
    return grown_kib / IN_FLIGHT


async def _rate(caller: Caller) -> tuple[list[float], float]:
    """Give what each run took, and the rate while 1,000 were in flight."""
    ended_s: list[float] = []
    cue = f"slow: {MODEL_S}; say: hello"
    took_s = await caller.load(
        RUNS,
        IN_FLIGHT,
        text=cue,
        on_answer=lambda: ended_s.append(time.perf_counter()),
        timeout_s=LOAD_TIMEOUT_S,
    )
    # From the end of the first thousand to where there are no more to be sent.
    steady_s = ended_s[-IN_FLIGHT - 1] - ended_s[IN_FLIGHT - 1]
    return took_s, (RUNS - 2 * IN_FLIGHT) / steady_s


def _until_all_run(worker: Process) -> None:
    """Return once 1,000 runs are under way and their calls are out."""
    until_s = time.monotonic() + HELD_S / 2
    while _runs_in_flight(worker) < IN_FLIGHT:
        if time.monotonic() > until_s:
            message = f"no {IN_FLIGHT} runs were under way within {HELD_S / 2:g} s"
            raise TimeoutError(message)
        time.sleep(_POLL_S)
    time.sleep(_CALLS_OUT_S)


def _runs_in_flight(worker: Process) -> float:
    with urllib.request.urlopen(str(worker.ready["metrics_url"])) as answer:  # noqa: S310  our own
        told = _RUNS_IN_FLIGHT.search(answer.read().decode())
    return float(told[1]) if told else 0.0
