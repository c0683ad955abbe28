"""The client of all round trips, a process of its own: publishes minimal JSON, awaits answers.

`python -m benchmarks.client` reads its task (`Task` as JSON) on standard input, and prints the
samples (`Samples` by side, as JSON). Sides take turns, round by round, so that whatever else the
machine does befalls all of them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.echo import SOURCE

__all__ = ["Samples", "Side", "Task"]

ANSWER_TIMEOUT_S = 30.0
USERS = 256
_TICKS_PER_S = 100

Place = tuple[int, int]
"""Partition and offset of a request's record."""


@dataclass(frozen=True, slots=True)
class Side:
    """One server to be measured: its topics, and the process whose CPU time counts.

    Under load it gets `load_factor` times the requests, so that a quick one is not done at once.
    """

    name: str
    pid: int
    requests: str
    responses: str
    tokens: str | None = None
    load_factor: int = 1


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure in a round: `serial` requests one by one, `loaded` with `in_flight`."""

    kafka: str
    sides: tuple[Side, ...]
    rounds: int
    serial: int
    loaded: int
    in_flight: int


@dataclass(slots=True)
class Samples:
    """What was measured of a side; times in seconds, lists by round."""

    serial_s: list[list[float]] = field(default_factory=list)
    first_token_s: list[list[float]] = field(default_factory=list)
    loaded_s: list[list[float]] = field(default_factory=list)
    rate_per_s: list[float] = field(default_factory=list)
    cpu_ms_per_request: list[float] = field(default_factory=list)


class Answers:
    """When each request's answer arrived; an answer may come before its request's own ack."""

    def __init__(self) -> None:
        self._arrived: dict[Place, float] = {}
        self._awaited: dict[Place, asyncio.Future[float]] = {}

    def arrive(self, place: Place) -> None:
        """Note the first arrival of something about a request."""
        at_s = time.perf_counter()
        awaited = self._awaited.pop(place, None)
        if awaited is None:
            self._arrived.setdefault(place, at_s)
        elif not awaited.done():
            awaited.set_result(at_s)

    async def of(self, place: Place) -> float:
        """Give the time of the arrival. Raises `TimeoutError`."""
        at_s = self._arrived.pop(place, None)
        if at_s is not None:
            return at_s
        awaited = self._awaited[place] = asyncio.get_running_loop().create_future()
        return await asyncio.wait_for(awaited, ANSWER_TIMEOUT_S)


class Caller:
    """Calls one side."""

    def __init__(self, side: Side, producer: AIOKafkaProducer) -> None:
        self.side = side
        self.answers = Answers()
        self.tokens = Answers()
        self._producer = producer
        self._users = count()

    async def call(self) -> tuple[float, float | None]:
        """Publish a request; give the seconds to its answer, and to its first token."""
        user = f"user-{next(self._users) % USERS}"
        value = json.dumps({"user_id": user, "input": "hello"}).encode()
        began = time.perf_counter()
        sent = await self._producer.send_and_wait(self.side.requests, value, user.encode())
        place = (sent.partition, sent.offset)
        answered_s = await self.answers.of(place) - began
        if self.side.tokens is None:
            return answered_s, None
        return answered_s, await self.tokens.of(place) - began


async def _measure(task: Task) -> dict[str, Samples]:
    async with AsyncExitStack() as stack:
        producer = AIOKafkaProducer(bootstrap_servers=task.kafka, enable_idempotence=True)
        await producer.start()
        stack.push_async_callback(producer.stop)
        callers = [
            await stack.enter_async_context(_calling(task, side, producer)) for side in task.sides
        ]
        for caller in callers:  # to warm up
            await _serial(caller, task.serial // 2)
            await _loaded(caller, task.loaded // 2, task.in_flight)
        gc.collect()
        gc.freeze()
        samples = {caller.side.name: Samples() for caller in callers}
        for _ in range(task.rounds):
            for caller in callers:
                await _round(caller, task, samples[caller.side.name])
        return samples


async def _round(caller: Caller, task: Task, samples: Samples) -> None:
    serial = await _serial(caller, task.serial)
    samples.serial_s.append([answered for answered, _ in serial])
    samples.first_token_s.append([first for _, first in serial if first is not None])
    requests = task.loaded * caller.side.load_factor
    cpu_s, began = _cpu_s(caller.side.pid), time.perf_counter()
    loaded = await _loaded(caller, requests, task.in_flight)
    samples.rate_per_s.append(requests / (time.perf_counter() - began))
    samples.cpu_ms_per_request.append((_cpu_s(caller.side.pid) - cpu_s) * 1000 / requests)
    samples.loaded_s.append(loaded)


async def _serial(caller: Caller, requests: int) -> list[tuple[float, float | None]]:
    return [await caller.call() for _ in range(requests)]


async def _loaded(caller: Caller, requests: int, in_flight: int) -> list[float]:
    numbers: Iterator[int] = iter(range(requests))
    took_s: list[float] = []

    async def call_in_turn() -> None:
        for _ in numbers:
            answered_s, _first = await caller.call()
            took_s.append(answered_s)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(call_in_turn())
    return took_s


@asynccontextmanager
async def _calling(task: Task, side: Side, producer: AIOKafkaProducer) -> AsyncIterator[Caller]:
    caller = Caller(side, producer)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            _listening(task, side.responses, "read_committed", caller.answers)
        )
        if side.tokens is not None:
            await stack.enter_async_context(
                _listening(task, side.tokens, "read_committed", caller.tokens)
            )
        yield caller


@asynccontextmanager
async def _listening(
    task: Task, topic: str, isolation_level: str, answers: Answers
) -> AsyncIterator[None]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=task.kafka,
        isolation_level=isolation_level,
        auto_offset_reset="earliest",
    )
    await consumer.start()

    async def listen() -> None:
        async for record in consumer:
            answers.arrive(_place(record))

    listening = asyncio.create_task(listen())
    try:
        yield
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await consumer.stop()


def _place(record: Any) -> Place:
    """Give the place of the request that a record answers."""
    source = dict(record.headers).get(SOURCE)
    text = source.decode() if source is not None else json.loads(record.value)["request_id"]
    _, partition, offset = f"-{text}".rsplit("-", 2)
    return int(partition), int(offset)


def _cpu_s(pid: int) -> float:
    """Give the CPU time that a process has used, of all its threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def main() -> None:
    """Read the task, measure, print the samples."""
    given = json.load(sys.stdin)
    task = Task(**{**given, "sides": tuple(Side(**side) for side in given["sides"])})
    samples = asyncio.run(_measure(task))
    print(json.dumps({name: asdict(one) for name, one in samples.items()}))


if __name__ == "__main__":
    main()
