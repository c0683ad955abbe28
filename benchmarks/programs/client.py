"""The client of all round trips, a process of its own: publishes minimal JSON, awaits answers.

`python -m benchmarks.programs.client` reads its task (`Task` as JSON) on standard input, and prints
the samples (`Samples` by side, as JSON). Sides take turns, round by round, so that whatever else
the machine does befalls all of them.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import TypeAdapter

from millstream.streams.broker.clients import connecting
from millstream.streams.settings import Settings, load_settings

__all__ = [
    "IN_FLIGHT",
    "SAMPLES",
    "TASK",
    "Caller",
    "Form",
    "Load",
    "Samples",
    "Side",
    "Task",
    "calling",
    "cpu_s",
]

IN_FLIGHT = 64
ANSWER_TIMEOUT_S = 60.0
USERS = 256
_TURNS_MIN = 4
"""A load is more than one burst: each place in flight is taken four times at the least."""

_TICKS_PER_S = 100
_ID = "{id}"


@dataclass(frozen=True, slots=True)
class Form:
    """A peer's own form of a request, in which `{id}` stands for the request's id.

    Its answer has that id in the header `correlation_id`.
    """

    value: str
    headers: Mapping[str, str]

    def filled_in(self, request_id: str) -> tuple[bytes, list[tuple[str, bytes]]]:
        """Give the value and headers of a request."""
        headers = [
            (name, text.replace(_ID, request_id).encode()) for name, text in self.headers.items()
        ]
        return self.value.replace(_ID, request_id).encode(), headers


@dataclass(frozen=True, slots=True)
class Side:
    """One server to be measured: its topics, and the process whose CPU time counts.

    It answers a request, `{"request_id": …, "user_id": …, "input": …}`, with one record on
    `responses` whose value is a JSON object with that `request_id`. Under load it gets
    `load_factor` times the requests, so that a quick one is not done at once, once for each number
    of requests that are to be `in_flight`. Requests and answers have a peer's `form`, if given. It
    is on the `kafka` that a file of properties, `kafka_config`, says how to connect to, if given,
    else on that of the settings.
    """

    name: str
    pid: int
    requests: str
    responses: str
    tokens: str | None = None
    load_factor: float = 1.0
    in_flight: tuple[int, ...] = (IN_FLIGHT,)
    form: Form | None = None
    kafka: str | None = None
    kafka_config: Path | None = None

    def settings(self, given: Settings) -> Settings:
        """Give the settings by which its topics are reached."""
        if self.kafka is None:
            return given
        return given.model_copy(update={"kafka": self.kafka, "kafka_config": self.kafka_config})


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure in a round: `serial` requests one by one, and `loaded` under load."""

    sides: tuple[Side, ...]
    rounds: int
    serial: int
    loaded: int


@dataclass(slots=True)
class Load:
    """What was measured of a side under one load; lists by round, times in seconds."""

    took_s: list[list[float]] = field(default_factory=list)
    rate_per_s: list[float] = field(default_factory=list)
    cpu_ms_per_request: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Samples:
    """What was measured of a side; times in seconds, lists by round; loads by what is in flight."""

    serial_s: list[list[float]] = field(default_factory=list)
    first_token_s: list[list[float]] = field(default_factory=list)
    loads: dict[int, Load] = field(default_factory=dict)


SAMPLES = TypeAdapter(dict[str, Samples])
TASK = TypeAdapter(Task)


class Arrivals:
    """When the first record about each request arrived that somebody waits for."""

    def __init__(self, *, in_own_form: bool = False) -> None:
        self._in_own_form = in_own_form
        self._awaited: dict[str, asyncio.Future[float]] = {}

    def expect(self, request_id: str) -> asyncio.Future[float]:
        """Say before a request is sent that its arrival will be awaited."""
        awaited = self._awaited[request_id] = asyncio.get_running_loop().create_future()
        return awaited

    def arrive(self, record: Any) -> None:
        """Note the arrival of a record."""
        at_s = time.perf_counter()
        if self._in_own_form:
            request_id = str(dict(record.headers)["correlation_id"], "ascii")
        else:
            request_id = orjson.loads(record.value)["request_id"]
        awaited = self._awaited.pop(request_id, None)
        if awaited is not None and not awaited.done():
            awaited.set_result(at_s)


class Caller:
    """Calls one side."""

    def __init__(self, side: Side, producer: AIOKafkaProducer) -> None:
        self.side = side
        self.answers = Arrivals(in_own_form=side.form is not None)
        self.tokens = Arrivals()
        self._producer = producer
        self._numbers = itertools.count()
        self._run = secrets.token_hex(4)

    async def call(self, text: str = "hello") -> tuple[float, float | None]:
        """Publish a request; give the seconds to its answer, and to its first token."""
        number = next(self._numbers)
        user, request_id = f"user-{number % USERS}", f"{self._run}-{number}"
        headers: list[tuple[str, bytes]] = []
        if self.side.form is None:
            value = orjson.dumps({"request_id": request_id, "user_id": user, "input": text})
        else:
            value, headers = self.side.form.filled_in(request_id)
        answered = self.answers.expect(request_id)
        first = None if self.side.tokens is None else self.tokens.expect(request_id)
        began = time.perf_counter()
        sent = await self._producer.send(self.side.requests, value, user.encode(), headers=headers)
        answered_s = await answered - began
        await sent
        return answered_s, None if first is None else await first - began

    async def load(
        self,
        requests: int,
        in_flight: int,
        *,
        text: str = "hello",
        on_answer: Callable[[], None] = lambda: None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> list[float]:
        """Call `in_flight` times at once until there were `requests`; give what each took.

        Raises `TimeoutError`.
        """
        numbers = iter(range(requests))
        took_s: list[float] = []

        async def call_in_turn() -> None:
            for _ in numbers:
                answered_s, _first = await self.call(text)
                took_s.append(answered_s)
                on_answer()

        async with self.answering(timeout_s), asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(call_in_turn())
        return took_s

    @asynccontextmanager
    async def answering(self, timeout_s: float = ANSWER_TIMEOUT_S) -> AsyncIterator[None]:
        """Raise `TimeoutError`, which names the side, if the block takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as error:
            message = f"{self.side.name} did not answer within {timeout_s:g} s"
            raise TimeoutError(message) from error


async def _measure(task: Task) -> dict[str, Samples]:
    settings = load_settings()
    async with AsyncExitStack() as stack:
        producers: dict[str | None, AIOKafkaProducer] = {}
        callers = []
        for side in task.sides:
            own = side.settings(settings)
            if side.kafka not in producers:
                producer = AIOKafkaProducer(**connecting(own), enable_idempotence=True)
                await producer.start()
                stack.push_async_callback(producer.stop)
                producers[side.kafka] = producer
            called = calling(own, side, producers[side.kafka])
            callers.append(await stack.enter_async_context(called))
        for caller in callers:  # to warm up
            await _serial(caller, task.serial // 2)
            for in_flight in caller.side.in_flight:
                await caller.load(_requests(caller, task, in_flight) // 2, in_flight)
        gc.collect()
        gc.freeze()
        samples = {
            caller.side.name: Samples(loads={number: Load() for number in caller.side.in_flight})
            for caller in callers
        }
        for _ in range(task.rounds):
            for caller in callers:
                await _round(caller, task, samples[caller.side.name])
        return samples


async def _round(caller: Caller, task: Task, samples: Samples) -> None:
    serial = await _serial(caller, task.serial)
    samples.serial_s.append([answered for answered, _ in serial])
    samples.first_token_s.append([first for _, first in serial if first is not None])
    for in_flight, load in samples.loads.items():
        requests = _requests(caller, task, in_flight)
        before_s, began = cpu_s(caller.side.pid), time.perf_counter()
        load.took_s.append(await caller.load(requests, in_flight))
        load.rate_per_s.append(requests / (time.perf_counter() - began))
        load.cpu_ms_per_request.append((cpu_s(caller.side.pid) - before_s) * 1000 / requests)


def _requests(caller: Caller, task: Task, in_flight: int) -> int:
    return max(_TURNS_MIN * in_flight, int(task.loaded * caller.side.load_factor))


async def _serial(caller: Caller, requests: int) -> list[tuple[float, float | None]]:
    answers = []
    for _ in range(requests):
        async with caller.answering():
            answers.append(await caller.call())
    return answers


@asynccontextmanager
async def calling(
    settings: Settings, side: Side, producer: AIOKafkaProducer
) -> AsyncIterator[Caller]:
    """Give a caller of a side, which listens to its answers until the block ends."""
    caller = Caller(side, producer)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(listening(settings, side.responses, caller.answers.arrive))
        if side.tokens is not None:
            await stack.enter_async_context(listening(settings, side.tokens, caller.tokens.arrive))
        yield caller


@asynccontextmanager
async def listening(
    settings: Settings, topic: str, arrive: Callable[[Any], None]
) -> AsyncIterator[None]:
    """Hand each committed record of a topic to `arrive` until the block ends."""
    consumer = AIOKafkaConsumer(
        topic,
        **connecting(settings),
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    await consumer.start()

    async def listen() -> None:
        async for record in consumer:
            arrive(record)

    listener = asyncio.create_task(listen())
    try:
        yield
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        await consumer.stop()


def cpu_s(pid: int) -> float:
    """Give the CPU time that a process has used, of all its threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def main() -> None:
    """Read the task, measure, print the samples."""
    samples = asyncio.run(_measure(TASK.validate_json(sys.stdin.buffer.read())))
    print(SAMPLES.dump_json(samples).decode())


if __name__ == "__main__":
    main()
