"""What grows with the sessions that a deployment has had: a start, its memory, its rate.

Each size is a deployment of its own, filled through the product: real requests to a real worker,
whose agent does nothing but leave each session a state. While that worker lives, its rate is taken
in turns with that of a worker that has served nobody. Then workers are started in turns under the
policy that the last one had and under another one, of which no snapshot knows.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.measures.growth.asking import Question, asking
from benchmarks.measures.growth.deployed import Deployed
from benchmarks.measures.growth.restarts import CHANGES, SAME, Restart, restarts
from benchmarks.programs.client import IN_FLIGHT, Side
from benchmarks.report import Figure
from benchmarks.services import Process, peak_kib, resident_kib
from benchmarks.sides import ask_client, median_ratio
from millstream.schemas.topics import REQUESTS, RESULTS
from millstream.streams.settings import Settings

__all__ = ["REQUESTS_DEFAULT", "Size", "restart_figures", "run", "sizes"]

REQUESTS_DEFAULT = 143_000
"""In 100,000 sessions: 43 % of them are asked twice."""

RESTART_TIMES_MAX = 2.0
PEAK_TIMES_MAX = 1.2
RATE_TIMES_MIN = 0.97
SERVED_MIB_MAX = {100_000: 250.0, 1_000_000: 600.0}
"""What a worker may hold that served up to so many sessions."""

_FEW = 1_000
_USERS = 1_000
_LOADED = 1_600
_SETTLES_S = 3.0


@dataclass(frozen=True, slots=True)
class Size:
    """A history: so many requests in so many sessions."""

    sessions: int
    requests: int


@dataclass(frozen=True, slots=True)
class _Served:
    """What a worker held before it served a history, behind it, and at its most, in MiB."""

    took_s: float
    idle_mib: float
    served_mib: float
    peak_mib: float


def sizes(requests: int) -> tuple[Size, ...]:
    """Give the histories: none, a thousand sessions, and as many as `requests` make."""
    largest = Size(max(1, requests * 100 // 143), requests)
    few = (Size(_FEW, _FEW * 143 // 100),) if largest.sessions > _FEW else ()
    return (Size(0, 0), *few, largest)


def run(settings: Settings, *, requests: int) -> Iterator[Figure]:
    """Measure up to a history of `requests`. Raises if a process fails or is too slow."""
    of_size = sizes(requests)
    for size in of_size:
        deployed = Deployed(settings, f"growth-{size.sessions}")
        is_largest = size == of_size[-1]
        with ExitStack() as stack:
            process, _ = stack.enter_context(deployed.worker())
            if size.requests:
                served = asyncio.run(_serve(deployed.settings, process, size))
                yield from _served_figures(size, served, has_bar=is_largest)
            if is_largest:
                yield _rate_figure(settings, deployed, process, stack)
        yield from restart_figures(size, asyncio.run(restarts(deployed)), has_bar=is_largest)


def _questions(size: Size) -> Iterator[Question]:
    for number in range(size.requests):
        session = number % size.sessions
        yield Question(f"growth-{number}", f"user-{session % _USERS}", f"session-{session}")


async def _serve(own: Settings, worker: Process, size: Size) -> _Served:
    idle_mib = resident_kib(worker.pid) / 1024
    began = time.perf_counter()
    async with asking(own) as asker:
        await asker.ask(_questions(size))
        await asker.wait()
    took_s = time.perf_counter() - began
    await asyncio.sleep(_SETTLES_S)  # what is at hand for the last of them goes
    served_mib = resident_kib(worker.pid) / 1024
    return _Served(took_s, idle_mib, served_mib, peak_kib(worker.pid) / 1024)


def _served_figures(size: Size, served: _Served, *, has_bar: bool) -> Iterator[Figure]:
    name = f"growth_{size.sessions}"
    print(
        f"{name} filled through the product: {size.requests} requests in {size.sessions} sessions "
        f"in {served.took_s:.1f} s",
        flush=True,
    )
    yield Figure(f"{name}_filled", size.requests / served.took_s, "requests/s")
    yield Figure(f"{name}_idle_memory", served.idle_mib, "MiB")
    bars = (most for sessions, most in SERVED_MIB_MAX.items() if size.sessions <= sessions)
    bar = next(bars, None) if has_bar else None
    yield Figure(f"{name}_served_memory", served.served_mib, "MiB", bar, at_most=True)
    yield Figure(f"{name}_served_memory_peak", served.peak_mib, "MiB")


def _rate_figure(
    settings: Settings, behind: Deployed, process: Process, stack: ExitStack
) -> Figure:
    """Take the rate of the worker that has served, in turns with that of one that has not."""
    empty = Deployed(settings, "growth-empty")
    beside, _ = stack.enter_context(empty.worker())
    sides = tuple(
        Side(
            one.name,
            pid,
            one.settings.topic(REQUESTS.name),
            one.settings.topic(RESULTS.name),
            load_factor=2,
        )
        for one, pid in ((behind, process.pid), (empty, beside.pid))
    )
    samples = ask_client(settings, sides, requests=_LOADED)
    print(f"{behind.name}: the rate's rounds leave some 19,000 requests more behind", flush=True)
    ours, theirs = (samples[one.name].loads[IN_FLIGHT].rate_per_s for one in (behind, empty))
    ratio = median_ratio(ours, theirs)
    return Figure(
        f"{behind.name.replace('-', '_')}_rate_over_empty", ratio, "times", RATE_TIMES_MIN
    )


def restart_figures(
    size: Size, taken: dict[str, list[Restart]], *, has_bar: bool
) -> Iterator[Figure]:
    """Give the medians of the starts of each kind, and what a change of policy adds."""
    for kind, starts in taken.items():
        opened = "; ".join(" ".join(f"{one:.2f}" for one in start.lanes_s) for start in starts)
        print(f"growth_{size.sessions}_{kind}: lanes opened in s, by start: {opened}", flush=True)
        for what, (unit, of, _) in _OF_A_RESTART.items():
            name = f"growth_{size.sessions}_{kind}_{what}"
            yield Figure(name, statistics.median(map(of, starts)), unit)
    for kind in CHANGES:
        for what, (_, of, most) in _OF_A_RESTART.items():
            changed, same = (statistics.median(map(of, taken[one])) for one in (kind, SAME))
            name = f"growth_{size.sessions}_{kind}_{what}_over_{SAME}"
            bar = most if has_bar else None
            yield Figure(name, changed / same, "times", bar, at_most=True)


_OF_A_RESTART: dict[str, tuple[str, Callable[[Restart], float], float | None]] = {
    "ready": ("s", lambda one: one.ready_s, None),
    "first_answer": ("s", lambda one: one.first_answer_s, None),
    "all_lanes": ("s", lambda one: one.answered_s, RESTART_TIMES_MAX),
    "slowest_lane": ("s", lambda one: max(one.lanes_s), RESTART_TIMES_MAX),
    "cpu": ("s", lambda one: one.cpu_s, None),
    "memory_peak": ("MiB", lambda one: one.peak_mib, PEAK_TIMES_MAX),
}
"""What is told of a restart: its unit, and how many times as much a changed policy may take."""
