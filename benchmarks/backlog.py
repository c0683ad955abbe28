"""A backlog: one user publishes a flood to a partition, others ask one thing after the other.

`mate` is at home at the partition of the flood, `neighbour` at another one of the same worker. The
agent does nothing in `backlog`, and takes 50 ms in `backlog_50ms`. What is measured is whether the
worker's memory stays bounded however much waits, and what the flood costs the others.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from benchmarks.client import listening
from benchmarks.report import Figure, percentile
from benchmarks.services import Process, resident_kib, running, told_settings
from benchmarks.sides import deployment
from schemas.topics import REQUESTS, RESULTS
from streams.partitioning import home_partition
from streams.settings import Settings, child_environment

__all__ = ["REQUESTS_DEFAULT", "run"]

REQUESTS_DEFAULT = 30_000

BEFORE_S = 5.0
STALL_S = 120.0
MEMORY_EVERY_S = 0.2
ANSWERED_S = 300.0
"""A flood that is not answered by then is left: what waits is measured, not how fast it runs."""

PARTITIONS = 2
RUNS_MAX = 1000


def _names_at(partition: int) -> Iterator[str]:
    names = (f"user-{number}" for number in itertools.count())
    return (name for name in names if home_partition(name, PARTITIONS) == partition)


FLOOD, MATE = itertools.islice(_names_at(0), 2)
NEIGHBOUR = next(_names_at(1))

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

    `scraped_s` is the longest that it took to tell its metrics; at `read_at` it had read all of
    the flood, whatever it did with it.
    """

    resident_kib: float = 0
    waiting: float = 0
    deferred: float = 0
    scraped_s: float = 0
    read_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Measured:
    idle_kib: float
    peak: _Memory
    before_s: dict[str, list[float]]
    beside_s: dict[str, list[float]]
    published_s: float
    read_s: float
    answered: int
    answered_s: float
    lost: int
    twice: int


def run(settings: Settings, *, requests: int) -> Iterator[Figure]:
    """Measure a flood of `requests`. Raises `RuntimeError` if a worker fails, or nothing ends."""
    for name, takes_s in (("backlog", 0.0), ("backlog_50ms", 0.05)):
        own = deployment(settings, partitions=PARTITIONS, runs_in_flight_max=RUNS_MAX)
        print(f"{name} {told_settings(own)}", flush=True)
        with ExitStack() as stack:
            worker = stack.enter_context(
                running(
                    ["-m", "benchmarks.noop_worker", str(takes_s)],
                    child_environment(own),
                    own.data_dir / f"{name}.log",
                )
            )
            measured = asyncio.run(_measure(own, worker, requests))
        yield from _figures(name, measured, requests)


def _figures(name: str, measured: _Measured, requests: int) -> Iterator[Figure]:
    grown_kib = measured.peak.resident_kib - measured.idle_kib
    yield Figure(f"{name}_published", requests / measured.published_s, "requests/s")
    yield Figure(f"{name}_read", requests / measured.read_s, "requests/s")
    yield Figure(f"{name}_answered", measured.answered, "requests")
    yield Figure(f"{name}_rate", measured.answered / measured.answered_s, "requests/s")
    yield Figure(f"{name}_memory_before", measured.idle_kib / 1024, "MiB")
    yield Figure(f"{name}_memory_peak", measured.peak.resident_kib / 1024, "MiB")
    yield Figure(f"{name}_waiting_peak", measured.peak.waiting, "requests")
    yield Figure(f"{name}_deferred_peak", measured.peak.deferred, "requests")
    yield Figure(f"{name}_memory_per_request", grown_kib / requests, "KiB")
    yield Figure(f"{name}_metrics_longest", measured.peak.scraped_s * 1000, "ms")
    for when, of_user in (("before", measured.before_s), ("beside", measured.beside_s)):
        for user, took_s in of_user.items():
            yield Figure(f"{name}_{user}_{when}", len(took_s), "requests")
            yield Figure(f"{name}_{user}_{when}_p50", percentile(took_s, 50) * 1000, "ms")
            yield Figure(f"{name}_{user}_{when}_p99", percentile(took_s, 99) * 1000, "ms")
    if measured.answered == requests or measured.lost:
        yield Figure(f"{name}_lost", measured.lost, "requests", 0, at_most=True)
    yield Figure(f"{name}_twice", measured.twice, "requests", 0, at_most=True)


async def _measure(own: Settings, worker: Process, requests: int) -> _Measured:
    producer = AIOKafkaProducer(
        bootstrap_servers=own.kafka, enable_idempotence=True, linger_ms=5, max_batch_size=262_144
    )
    await producer.start()
    answers = _Answers(bytearray(requests))
    topic = own.topic(REQUESTS.name)
    try:
        async with listening(own.kafka, own.topic(RESULTS.name), answers.arrive):
            async with asyncio.timeout(BEFORE_S + STALL_S):
                before_s = await _ask(producer, topic, answers, BEFORE_S)
            idle_kib = resident_kib(worker.pid)
            began = time.perf_counter()
            beside = asyncio.create_task(_ask(producer, topic, answers, None))
            peak = _Memory()
            watching = asyncio.gather(
                _watch_memory(worker, peak), _watch_line(worker, peak, answers)
            )
            published_s = await _publish(producer, topic, requests)
            is_stalled = await _all_answered(answers, began)
            answers.stopped = True
            answered, answered_s = answers.seen, answers.newest_at - began
            async with asyncio.timeout(STALL_S):
                beside_s = await beside
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
    finally:
        await producer.stop()
    return _Measured(
        idle_kib,
        peak,
        before_s,
        beside_s,
        published_s,
        read_s=(peak.read_at or time.perf_counter()) - began,
        answered=answered,
        answered_s=answered_s,
        lost=answers.counts.count(0) if is_stalled else 0,
        twice=sum(count > 1 for count in answers.counts),
    )


async def _publish(producer: AIOKafkaProducer, topic: str, requests: int) -> float:
    began = time.perf_counter()
    for number in range(requests):
        value = b'{"request_id": "flood-%d", "user_id": "%s", "input": "x"}' % (
            number,
            FLOOD.encode(),
        )
        await producer.send(topic, value, FLOOD.encode())
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)  # the others want their turn
    await producer.flush()
    return time.perf_counter() - began


async def _ask(
    producer: AIOKafkaProducer, topic: str, answers: _Answers, for_s: float | None
) -> dict[str, list[float]]:
    """Let each of the others ask for a time, or until cancelled; give what their answers took."""
    users = {"mate": MATE, "neighbour": NEIGHBOUR}
    took_s = await asyncio.gather(
        *(_ask_in_turn(producer, topic, answers, user, for_s) for user in users.values())
    )
    return dict(zip(users, took_s, strict=True))


async def _ask_in_turn(
    producer: AIOKafkaProducer, topic: str, answers: _Answers, user: str, for_s: float | None
) -> list[float]:
    took_s: list[float] = []
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
    return took_s


async def _watch_memory(worker: Process, peak: _Memory) -> None:
    while True:
        peak.resident_kib = max(peak.resident_kib, resident_kib(worker.pid))
        await asyncio.sleep(MEMORY_EVERY_S)


async def _watch_line(worker: Process, peak: _Memory, answers: _Answers) -> None:
    while True:
        began = time.perf_counter()
        waiting, deferred = await asyncio.to_thread(_line, worker)
        ended = time.perf_counter()
        peak.waiting = max(peak.waiting, waiting)
        peak.deferred = max(peak.deferred, deferred)
        peak.scraped_s = max(peak.scraped_s, ended - began)
        # What runs is in none of the figures.
        known = waiting + deferred + answers.seen + RUNS_MAX
        if peak.read_at is None and known >= len(answers.counts):
            peak.read_at = ended
        await asyncio.sleep(MEMORY_EVERY_S)


async def _all_answered(answers: _Answers, began: float) -> bool:
    """Wait for the flood's answers, at most `ANSWERED_S`; tell whether no more came."""
    while not answers.all_there:
        await asyncio.sleep(MEMORY_EVERY_S)
        now = time.perf_counter()
        if now - answers.newest_at > STALL_S:
            return True  # what is lost is counted
        if now - began > ANSWERED_S:
            return False
    return False


def _line(worker: Process) -> tuple[float, float]:
    with urllib.request.urlopen(f"{worker.ready['metrics_url']}/metrics") as answer:  # noqa: S310  our own
        told = dict(_TOLD.findall(answer.read().decode()))
    return float(told.get("waiting", 0)), float(told.get("deferred", 0))
