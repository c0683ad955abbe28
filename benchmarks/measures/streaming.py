"""Answers that are streamed over HTTP: what a run and a token cost on their way to the topic.

Two workers in turns, in one run: one speaks to the model by our client, the other by LangChain's
class. Back to back, the model writes one token behind the other; paced, 40 in a second, as a
provider's does. Then the same agent in process, with our client and no bus.

A stream falls behind where a token is on the topic more than half a second after it was on the
socket, or the result that long after its model has ended.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer

from benchmarks.programs.client import Caller, Side, calling, cpu_s, listening
from benchmarks.report import Figure, percentile
from benchmarks.services import PROJECT, running
from benchmarks.sides import deployment, model_server
from millstream.schemas.topics import REQUESTS, RESULTS, TOKENS
from millstream.streams.broker.clients import connecting
from millstream.streams.settings import Settings, child_environment

__all__ = ["run"]

TOKENS_PER_ANSWER = (1, 50, 400)
RUNS = {1: 1_600, 50: 640, 400: 128}
IN_FLIGHT = 64
ROUNDS = 2
PACE_PER_S = 40
PACED_TOKENS = 100
STREAMS = (50, 100, 200, 300)
LOAD_TIMEOUT_S = 180.0

CPU_OVER_LANGCHAIN_MAX = 0.25
CPU_US_PER_TOKEN_MAX = 100.0
RATE_OVER_IN_PROCESS_MIN = 0.9
STREAMS_MIN = 200.0

_WORKER = ("-m", "benchmarks.programs.long_answers_worker")
_LATE_S = 0.5
_WRITTEN_NS = re.compile(rb"\d{19}")
_SIDES = {"own": "openai:streaming", "langchain": "langchain:openai:streaming"}


@dataclass(slots=True)
class _Load:
    """What was measured of a side; a value for each round."""

    rate_per_s: list[float] = field(default_factory=list)
    cpu_ms_per_run: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Paced:
    """What was measured of so many streams at a time."""

    took_s: list[float]
    late_s: list[float]
    cpu_us_per_token: float

    @property
    def holds(self) -> bool:
        """Whether none of them fell behind."""
        longest_s = (PACED_TOKENS - 1) / PACE_PER_S + _LATE_S
        return percentile(self.took_s, 99) <= longest_s and percentile(self.late_s, 99) <= _LATE_S


def run(settings: Settings) -> Iterator[Figure]:
    """Measure. Raises `RuntimeError` if a process fails, `TimeoutError` if one is too slow."""
    with ExitStack() as stack:
        provider = model_server(settings, stack)
        sides = {
            name: _side(name, deployment(settings, default_model=model_name), provider, stack)
            for name, model_name in _SIDES.items()
        }
        measured = asyncio.run(_back_to_back(settings, sides))
        yield from _figures_back_to_back(measured)
        rate_per_s = statistics.median(measured["own", 400].rate_per_s) * 400
        in_process = _in_process(settings, provider)
        yield Figure("streaming_in_process_tokens", in_process["tokens_per_s"], "tokens/s")
        yield Figure("streaming_in_process_cpu", in_process["cpu_us"], "us/token")
        share = rate_per_s / in_process["tokens_per_s"]
        yield Figure("streaming_rate_over_in_process", share, "times", RATE_OVER_IN_PROCESS_MIN)
        yield from _figures_paced(asyncio.run(_paced(settings, sides["own"])))


def _side(name: str, own: Settings, provider: Mapping[str, str], stack: ExitStack) -> Side:
    environment = {**child_environment(own), **provider}
    worker = stack.enter_context(running(_WORKER, environment, own.data_dir / f"{name}.log"))
    requests, results, tokens = (own.topic(spec.name) for spec in (REQUESTS, RESULTS, TOKENS))
    return Side(name, worker.pid, requests, results, tokens)


def _figures_back_to_back(measured: Mapping[tuple[str, int], _Load]) -> Iterator[Figure]:
    for tokens in TOKENS_PER_ANSWER:
        for name in _SIDES:
            load = measured[name, tokens]
            stem = f"streaming_{tokens}_{name}"
            yield Figure(f"{stem}_rate", statistics.median(load.rate_per_s), "runs/s")
            yield Figure(f"{stem}_cpu", statistics.median(load.cpu_ms_per_run), "ms/run")
        ours, theirs = (measured[name, tokens].cpu_ms_per_run for name in _SIDES)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        bar = CPU_OVER_LANGCHAIN_MAX if tokens == 50 else None
        yield Figure(f"streaming_{tokens}_cpu_over_langchain", ratio, "times", bar, at_most=True)
    few, many = (
        statistics.median(measured["own", tokens].cpu_ms_per_run)
        for tokens in (TOKENS_PER_ANSWER[0], TOKENS_PER_ANSWER[-1])
    )
    per_token_us = (many - few) * 1000 / (TOKENS_PER_ANSWER[-1] - TOKENS_PER_ANSWER[0])
    yield Figure("streaming_cpu_per_token", per_token_us, "us", CPU_US_PER_TOKEN_MAX, at_most=True)


def _figures_paced(paced: Mapping[int, _Paced]) -> Iterator[Figure]:
    carried = 0
    for streams, one in paced.items():
        stem = f"streaming_paced_{streams}"
        yield Figure(f"{stem}_took_p99", percentile(one.took_s, 99), "s")
        yield Figure(f"{stem}_socket_to_topic_p50", percentile(one.late_s, 50) * 1000, "ms")
        yield Figure(f"{stem}_socket_to_topic_p99", percentile(one.late_s, 99) * 1000, "ms")
        yield Figure(f"{stem}_cpu", one.cpu_us_per_token, "us/token")
        carried = streams if one.holds else carried
    yield Figure("streaming_streams_carried", carried, "streams", STREAMS_MIN)


async def _back_to_back(
    settings: Settings, sides: Mapping[str, Side]
) -> dict[tuple[str, int], _Load]:
    measured = {(name, tokens): _Load() for name in sides for tokens in TOKENS_PER_ANSWER}
    producer = AIOKafkaProducer(**connecting(settings), enable_idempotence=True)
    await producer.start()
    try:
        for number in range(ROUNDS + 1):
            for name, side in sides.items():
                # Not its tokens: whoever reads them takes CPU from what is measured.
                quiet = Side(side.name, side.pid, side.requests, side.responses)
                async with calling(settings, quiet, producer) as caller:
                    for tokens in TOKENS_PER_ANSWER:
                        load = await _one_load(caller, tokens, warm_up=number == 0)
                        if number:
                            measured[name, tokens].rate_per_s.append(load[0])
                            measured[name, tokens].cpu_ms_per_run.append(load[1])
    finally:
        await producer.stop()
    return measured


async def _one_load(caller: Caller, tokens: int, *, warm_up: bool) -> tuple[float, float]:
    runs = IN_FLIGHT if warm_up else RUNS[tokens]
    before_s, began_s = cpu_s(caller.side.pid), time.perf_counter()
    await caller.load(runs, IN_FLIGHT, text=f"stream: {tokens} at 0", timeout_s=LOAD_TIMEOUT_S)
    took_s, used_s = time.perf_counter() - began_s, cpu_s(caller.side.pid) - before_s
    return runs / took_s, used_s * 1000 / runs


async def _paced(settings: Settings, side: Side) -> dict[int, _Paced]:
    paced: dict[int, _Paced] = {}
    late_s: list[float] = []
    since_ns = time.time_ns()

    def arrive(record: Any) -> None:
        # Of a record, its first token: it waited longest. Earlier loads stand on the topic too.
        written = _WRITTEN_NS.search(record.value)
        if written is not None and int(written[0]) > since_ns:
            late_s.append((time.time_ns() - int(written[0])) / 1e9)

    assert side.tokens is not None  # noqa: S101  it writes some
    quiet = Side(side.name, side.pid, side.requests, side.responses)
    producer = AIOKafkaProducer(**connecting(settings), enable_idempotence=True)
    await producer.start()
    try:
        async with (
            calling(settings, quiet, producer) as caller,
            listening(settings, side.tokens, arrive),
        ):
            await caller.call("stream: 1 at 0")
            for streams in STREAMS:
                late_s.clear()
                runs, text = 3 * streams, f"stream: {PACED_TOKENS} at {PACE_PER_S}"
                before_s = cpu_s(side.pid)
                took_s = await caller.load(runs, streams, text=text, timeout_s=LOAD_TIMEOUT_S)
                used_s = cpu_s(side.pid) - before_s
                paced[streams] = _Paced(took_s, list(late_s), used_s * 1e6 / (runs * PACED_TOKENS))
    finally:
        await producer.stop()
    return paced


def _in_process(settings: Settings, provider: Mapping[str, str]) -> dict[str, float]:
    program = "benchmarks.programs.streamed_agent"
    told = subprocess.run(
        [sys.executable, "-m", program, str(RUNS[400]), str(IN_FLIGHT), "stream: 400 at 0"],
        stdout=subprocess.PIPE,
        cwd=PROJECT,
        env={**child_environment(settings), **provider},
        check=True,
        timeout=LOAD_TIMEOUT_S,
    )
    figures: dict[str, float] = json.loads(told.stdout)
    return figures
