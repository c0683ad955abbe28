"""The first token through the bus, beside the same agent called in process.

Through the bus: from before the request is published until its first token record is read, by way
of a real worker. In process: from the call of `AgentExecutor.run` until its first token is given to
a callable. In turns, one by one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack

from aiokafka import AIOKafkaProducer

from benchmarks.programs.client import Caller, Side, calling
from benchmarks.report import Figure, percentile
from benchmarks.sides import deployment, worker_side
from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.models.resolve import keep_traces_local
from millstream.schemas.base import Address
from millstream.schemas.events import AgentToken, CheckpointSaved, ResolvedRequest
from millstream.streams.broker.clients import connecting
from millstream.streams.settings import Settings

__all__ = ["run"]

RUNS = 500
WARM_UP = 100
P50_OVERHEAD_MS_MAX = 15.0


def run(settings: Settings) -> Iterator[Figure]:
    """Measure. Raises `RuntimeError` if the worker fails, `TimeoutError` if it is too slow."""
    own = deployment(settings)
    with ExitStack() as stack:
        side = worker_side("first_token", own, stack)
        bus_ms, called_ms = asyncio.run(_measure(own, side))
    bus, called = percentile(bus_ms, 50), percentile(called_ms, 50)
    yield Figure("first_token_through_bus_p50", bus, "ms")
    yield Figure("first_token_through_bus_p99", percentile(bus_ms, 99), "ms")
    yield Figure("first_token_in_process_p50", called, "ms")
    yield Figure("first_token_in_process_p99", percentile(called_ms, 99), "ms")
    yield Figure("first_token_overhead_p50", bus - called, "ms", P50_OVERHEAD_MS_MAX, at_most=True)


async def _measure(own: Settings, side: Side) -> tuple[list[float], list[float]]:
    keep_traces_local()
    factory = AgentFactory(default_model=own.default_model)
    agent = _Agent(factory, AgentExecutor(factory, coalesce_s=own.token_coalesce_s))
    producer = AIOKafkaProducer(**connecting(own), enable_idempotence=True)
    await producer.start()
    try:
        async with calling(own, side, producer) as caller:
            both = [(await _through_bus(caller), await agent.call()) for _ in range(WARM_UP + RUNS)]
    finally:
        await producer.stop()
    bus_ms, called_ms = zip(*both[WARM_UP:], strict=True)
    return list(bus_ms), list(called_ms)


async def _through_bus(caller: Caller) -> float:
    _, first_s = await caller.call()
    assert first_s is not None  # noqa: S101  this side writes tokens
    return first_s * 1000


class _Agent:
    """The agent that the worker runs, called where it is wanted."""

    def __init__(self, factory: AgentFactory, executor: AgentExecutor) -> None:
        self._factory = factory
        self._executor = executor

    async def call(self) -> float:
        """Give the milliseconds to the first token."""
        first_s: list[float] = []

        async def emit(_: AgentToken) -> None:
            first_s.append(time.perf_counter())

        request = ResolvedRequest(
            user_id="user",
            request_id="request",
            session_id="session",
            input="hello",
            source=Address(topic="none", partition=0, offset=0),
        )
        began_s = time.perf_counter()
        await self._executor.run(
            request,
            self._factory.plan(request),
            attempt=1000,
            load_checkpoint=_nothing,
            emit=emit,
        )
        return (first_s[0] - began_s) * 1000


async def _nothing() -> CheckpointSaved | None:
    """Load no checkpoint: a session's first turn, as those through the bus are."""
    return None
