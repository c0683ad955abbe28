"""A backlog: more is published to a partition than is served, while others ask one by one.

In `backlog` one user publishes a flood, and the agent does nothing; in the others it takes 50 ms
or 5 s. `mate` is at home at the partition of the flood, `neighbour` at another one of the same
worker. In `crowd` every user asks ten things, in `crowd_alone` one, and the agent takes 30 s:
nobody floods, and the partition is read no further when as many wait as may. What is measured is
whether the worker's memory stays bounded however much waits, what that costs the others, and
whether any request that was read was lost.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from benchmarks.books import Books, balanced
from benchmarks.programs.client import listening
from benchmarks.report import Figure, percentile
from benchmarks.services import Process, resident_kib, running, told_settings
from benchmarks.sides import deployment
from millstream.schemas.topics import REQUESTS, RESULTS
from millstream.streams.broker.clients import connecting
from millstream.streams.settings import Settings, child_environment
from millstream.streams.wire.partitioning import home_partition

__all__ = ["BACKLOGS", "REQUESTS_DEFAULT", "run"]

REQUESTS_DEFAULT = 30_000

BEFORE_S = 5.0
STALL_S = 120.0
MEMORY_EVERY_S = 0.2
ANSWERED_S = 600.0
SETTLED_S = 60.0
"""What is not answered by then is left, and so long after all is read, or no more is: what waits is
measured, not how fast it runs."""

PARTITIONS = 2
RUNS_MAX = 1000
CROWD_PARKED_MAX = 10_000

FIXED_KIB = 64 * 1024
FETCHED_MAX = 6000
BYTES_PER_ID = 135
BYTES_PER_DEFERRED = 64
BYTES_PER_PARKED = 2560
"""What a worker may grow by: for what it has in memory at once, for each id that it remembers, for
each request that is left unread, and for each that is parked. Some are fetched before it stops."""


def _names_at(partition: int) -> Iterator[str]:
    names = (f"user-{number}" for number in itertools.count())
    return (name for name in names if home_partition(name, PARTITIONS) == partition)


FLOOD, MATE = itertools.islice(_names_at(0), 2)
NEIGHBOUR = next(_names_at(1))


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is published, and to whom: each user asks for so much, `None`: one asks for all."""

    name: str
    takes_s: float
    each: int | None
    beside: Mapping[str, str]
    parked_max: int = 100_000

    def users(self) -> Iterator[str]:
        """Give whose each request is."""
        if self.each is None:
            return itertools.repeat(FLOOD)
        alike = (itertools.repeat(name, self.each) for name in _names_at(0))
        return itertools.chain.from_iterable(alike)


_BOTH = {"mate": MATE, "neighbour": NEIGHBOUR}
_OTHER = {"neighbour": NEIGHBOUR}

BACKLOGS = (
    Backlog("backlog", 0.0, None, _BOTH),
    Backlog("backlog_50ms", 0.05, None, _BOTH),
    Backlog("backlog_5s", 5.0, None, _BOTH),
    Backlog("crowd", 30.0, 10, _OTHER, CROWD_PARKED_MAX),
    Backlog("crowd_alone", 30.0, 1, _OTHER, CROWD_PARKED_MAX),
)

_AT_ONCE = 100
_FLOOD = "flood-"
_TOLD = re.compile(r"^millstream_lane_requests_(waiting|deferred) ([\d.e+]+)$", re.MULTILINE)


@dataclass(slots=True)
class _Answers:
    """The results that came: how many of each request of the flood, and whom somebody awaits."""

    counts: bytearray
    awaited: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    seen: int = 0
    stopped: bool = False
    newest_at: float = field(default_factory=time.perf_counter)

    def arrive(self, record: Any) -> None:
        request_id: str = orjson.loads(record.value)["request_id"]
        self.newest_at = time.perf_counter()
        if request_id.startswith(_FLOOD):
            number = int(request_id.removeprefix(_FLOOD))
            self.seen += self.counts[number] == 0
            self.counts[number] += self.counts[number] < 255
        elif (awaited := self.awaited.pop(request_id, None)) is not None:
            awaited.set_result(None)

    @property
    def is_over(self) -> bool:
        return self.stopped or self.all_there

    @property
    def all_there(self) -> bool:
        return self.seen == len(self.counts)


@dataclass(slots=True)
class _Memory:
    """What the worker held at its most: in KiB, and requests that were parked, or left unread.

    `scraped_s` is the longest that it took to tell its metrics; at `settled_at` it had read all of
    the flood, whatever it did with it, or was full.
    """

    resident_kib: float = 0
    waiting: float = 0
    deferred: float = 0
    scraped_s: float = 0
    settled_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Measured:
    idle_kib: float
    peak: _Memory
    before_s: dict[str, list[float]]
    beside_s: dict[str, list[float]]
    published_s: float
    settled_s: float
    answered: int
    answered_s: float


def run(settings: Settings, requests: int, *, backlog: Backlog) -> Iterator[Figure]:
    """Measure one with so many requests. Raises `RuntimeError` if a worker fails."""
    own = deployment(
        settings,
        partitions=PARTITIONS,
        runs_in_flight_max=RUNS_MAX,
        parked_max=backlog.parked_max,
    )
    print(f"{backlog.name} {told_settings(own)}", flush=True)
    with running(
        ["-m", "benchmarks.programs.noop_worker", str(backlog.takes_s)],
        child_environment(own),
        own.data_dir / f"{backlog.name}.log",
    ) as worker:
        measured = asyncio.run(_measure(own, worker, backlog, requests))
    books = asyncio.run(balanced(own, partition=0, prefix=_FLOOD))
    yield from _figures(backlog.name, measured, books, requests)


def _figures(name: str, measured: _Measured, books: Books, requests: int) -> Iterator[Figure]:
    peak = measured.peak
    grown_kib = peak.resident_kib - measured.idle_kib
    waited = peak.waiting + peak.deferred
    yield Figure(f"{name}_published", requests / measured.published_s, "requests/s")
    yield Figure(f"{name}_read", books.read, "requests")
    yield Figure(f"{name}_read_or_full_after", measured.settled_s, "s")
    yield Figure(f"{name}_answered", measured.answered, "requests")
    yield Figure(f"{name}_rate", measured.answered / measured.answered_s, "requests/s")
    yield Figure(f"{name}_waiting_peak", peak.waiting, "requests")
    yield Figure(f"{name}_deferred_peak", peak.deferred, "requests")
    yield Figure(f"{name}_memory_before", measured.idle_kib / 1024, "MiB")
    yield Figure(f"{name}_memory_peak", peak.resident_kib / 1024, "MiB")
    yield Figure(f"{name}_memory_per_waiting", grown_kib * 1024 / waited, "bytes")
    allowed_kib = FIXED_KIB + _bytes_for(peak, measured.answered) / 1024
    yield Figure(f"{name}_memory_grown", grown_kib / 1024, "MiB", allowed_kib / 1024, at_most=True)
    yield Figure(f"{name}_metrics_longest", peak.scraped_s * 1000, "ms")
    for when, of_user in (("before", measured.before_s), ("beside", measured.beside_s)):
        for user, took_s in of_user.items():
            yield Figure(f"{name}_{user}_{when}", len(took_s), "requests")
            if not took_s:  # what it asked for stands behind all the others still
                continue
            yield Figure(f"{name}_{user}_{when}_p50", percentile(took_s, 50) * 1000, "ms")
            yield Figure(f"{name}_{user}_{when}_p99", percentile(took_s, 99) * 1000, "ms")
    yield Figure(f"{name}_lost", books.lost, "requests", 0, at_most=True)
    yield Figure(f"{name}_twice", books.twice, "requests", 0, at_most=True)


def _bytes_for(peak: _Memory, answered: int) -> float:
    """Give what those that wait, and the ids of those that ended, may take."""
    waiting = min(peak.waiting, CROWD_PARKED_MAX + FETCHED_MAX)
    return waiting * BYTES_PER_PARKED + peak.deferred * BYTES_PER_DEFERRED + answered * BYTES_PER_ID


async def _measure(own: Settings, worker: Process, backlog: Backlog, requests: int) -> _Measured:
    producer = AIOKafkaProducer(
        **connecting(own), enable_idempotence=True, linger_ms=5, max_batch_size=262_144
    )
    await producer.start()
    answers = _Answers(bytearray(requests))
    topic = own.topic(REQUESTS.name)
    try:
        async with listening(own, own.topic(RESULTS.name), answers.arrive):
            before_s = _nothing_yet(backlog)
            async with asyncio.timeout(BEFORE_S + STALL_S):
                await _ask(
                    producer, topic, answers, users=backlog.beside, took_s=before_s, for_s=BEFORE_S
                )
            idle_kib = resident_kib(worker.pid)
            began = time.perf_counter()
            beside_s = _nothing_yet(backlog)
            beside = asyncio.create_task(
                _ask(producer, topic, answers, users=backlog.beside, took_s=beside_s, for_s=None)
            )
            peak = _Memory()
            watching = asyncio.gather(
                _watch_memory(worker, peak),
                _watch_line(worker, peak, answers, full=backlog.parked_max),
            )
            published_s = await _publish(producer, topic, backlog, requests)
            await _answered_or_settled(answers, peak, began)
            answers.stopped = True
            answered, answered_s = answers.seen, answers.newest_at - began
            for work in (beside, watching):
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work
    finally:
        await producer.stop()
    return _Measured(
        idle_kib,
        peak,
        before_s,
        beside_s,
        published_s,
        settled_s=(peak.settled_at or time.perf_counter()) - began,
        answered=answered,
        answered_s=answered_s,
    )


async def _publish(
    producer: AIOKafkaProducer, topic: str, backlog: Backlog, requests: int
) -> float:
    began = time.perf_counter()
    for number, user in enumerate(itertools.islice(backlog.users(), requests)):
        value = f'{{"request_id": "{_FLOOD}{number}", "user_id": "{user}", "input": "x"}}'
        await producer.send(topic, value.encode(), user.encode(), partition=0)
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)  # the others want their turn
    await producer.flush()
    return time.perf_counter() - began


def _nothing_yet(backlog: Backlog) -> dict[str, list[float]]:
    return {name: [] for name in backlog.beside}


async def _ask(
    producer: AIOKafkaProducer,
    topic: str,
    answers: _Answers,
    *,
    users: Mapping[str, str],
    took_s: dict[str, list[float]],
    for_s: float | None,
) -> None:
    """Let each of the others ask for a time, or until cancelled; note what their answers took."""
    await asyncio.gather(
        *(
            _ask_in_turn(producer, topic, answers, user=user, took_s=took_s[name], for_s=for_s)
            for name, user in users.items()
        )
    )


async def _ask_in_turn(
    producer: AIOKafkaProducer,
    topic: str,
    answers: _Answers,
    *,
    user: str,
    took_s: list[float],
    for_s: float | None,
) -> None:
    began = time.perf_counter()
    until = None if for_s is None else began + for_s
    while (until is None or began < until) and not answers.is_over:
        request_id = f"{user}-{began}"
        value = orjson.dumps({"request_id": request_id, "user_id": user, "input": "x"})
        answered = answers.awaited[request_id] = asyncio.get_running_loop().create_future()
        await producer.send(topic, value, user.encode())
        await answered
        took_s.append(time.perf_counter() - began)
        began = time.perf_counter()


async def _watch_memory(worker: Process, peak: _Memory) -> None:
    while True:
        peak.resident_kib = max(peak.resident_kib, resident_kib(worker.pid))
        await asyncio.sleep(MEMORY_EVERY_S)


async def _watch_line(worker: Process, peak: _Memory, answers: _Answers, *, full: int) -> None:
    while True:
        began = time.perf_counter()
        waiting, deferred = await asyncio.to_thread(_line, worker)
        ended = time.perf_counter()
        peak.waiting = max(peak.waiting, waiting)
        peak.deferred = max(peak.deferred, deferred)
        peak.scraped_s = max(peak.scraped_s, ended - began)
        # What runs is in none of the figures.
        known = waiting + deferred + answers.seen + RUNS_MAX
        is_settled = known >= len(answers.counts) or waiting >= full
        if peak.settled_at is None and is_settled:
            peak.settled_at = ended
        await asyncio.sleep(MEMORY_EVERY_S)


async def _answered_or_settled(answers: _Answers, peak: _Memory, began: float) -> None:
    """Wait for all answers, but not past `SETTLED_S` and `ANSWERED_S`, nor where none come."""
    while not answers.all_there:
        await asyncio.sleep(MEMORY_EVERY_S)
        now = time.perf_counter()
        settled_at = now if peak.settled_at is None else peak.settled_at
        is_over = now - settled_at > SETTLED_S or now - began > ANSWERED_S
        if is_over or now - answers.newest_at > STALL_S:
            return


def _line(worker: Process) -> tuple[float, float]:
    with urllib.request.urlopen(str(worker.ready["metrics_url"])) as answer:  # noqa: S310  our own
        told = dict(_TOLD.findall(answer.read().decode()))
    return float(told.get("waiting", 0)), float(told.get("deferred", 0))
