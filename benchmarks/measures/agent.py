"""What a run costs in `AgentExecutor` alone: CPU, and memory while it waits for its model.

No Kafka: the scripted model, the first turn of an agent without tools, tokens that go nowhere. In
turns as such an agent runs (*call*: its model is called, without LangGraph's loop) and as LangGraph
runs it (*loop*), as it does an agent with tools.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import Iterator

import uvloop

from benchmarks.report import Figure
from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory, RunPlan
from millstream.agents.loop.agent import Agent, LoopAgent, SingleCallAgent
from millstream.agents.models.resolve import keep_traces_local
from millstream.schemas.base import Address
from millstream.schemas.events import AgentToken, CheckpointSaved, ResolvedRequest

__all__ = ["run"]

ROUNDS = 9
RUNS = 400
WAITING = 500
WAIT_S = 600.0
BEGUN_WITHIN_S = 30.0


def run() -> Iterator[Figure]:
    """Measure in this process. Raises `RuntimeError` if a run does not complete."""
    keep_traces_local()
    sides = {"call": _Side(AgentFactory(default_model="scripted")), "loop": _Side(_Loops())}
    cpu_ms, kib = uvloop.run(_measure(sides))
    for name in sides:
        yield Figure(f"agent_{name}_cpu", statistics.median(cpu_ms[name]), "ms/run")
        yield Figure(f"agent_{name}_memory_per_waiting_run", kib[name], "KiB")


class _Loops(AgentFactory):
    """Has LangGraph run every agent."""

    def __init__(self) -> None:
        super().__init__(default_model="scripted")

    def create(self, plan: RunPlan) -> Agent:
        agent = super().create(plan)
        return LoopAgent(agent.graph) if isinstance(agent, SingleCallAgent) else agent


class _Side:
    """Runs an agent in one of the two ways."""

    def __init__(self, factory: AgentFactory) -> None:
        self.all_wait = asyncio.Event()
        self._calls = 0
        self._factory = factory
        self._executor = AgentExecutor(factory)

    async def run(self, number: int, text: str) -> None:
        """Run it once, in a session of its own."""
        request = ResolvedRequest(
            user_id="user",
            request_id=f"request-{number}",
            session_id=f"session-{number}",
            input=text,
            source=Address(topic="none", partition=0, offset=number),
        )
        outcome = await self._executor.run(
            request,
            self._factory.plan(request),
            attempt=1000,
            load_checkpoint=_nothing,
            emit=_nowhere,
            before_call=self._before_call,
        )
        if outcome.result.status != "completed":
            message = f"a run ended as {outcome.result.status}: {outcome.result.reason}"
            raise RuntimeError(message)

    def expect_all_waiting(self) -> None:
        """Have `all_wait` set once `WAITING` further models are called."""
        self.all_wait.clear()
        self._calls = 0

    async def _before_call(self) -> None:
        self._calls += 1
        if self._calls == WAITING:
            self.all_wait.set()


async def _measure(sides: dict[str, _Side]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Give by side the CPU ms per run of each round, and the KiB per waiting run."""
    for side in sides.values():
        await _many(side)
    gc.collect()
    gc.freeze()
    cpu_ms: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            began_s = time.process_time()
            await _many(side)
            cpu_ms[name].append((time.process_time() - began_s) * 1000 / RUNS)
    return cpu_ms, {name: await _memory_kib(side) for name, side in sides.items()}


async def _many(side: _Side) -> None:
    for number in range(RUNS):
        await side.run(number, "say: hello")


async def _memory_kib(side: _Side) -> float:
    """Give what Python has allocated for each run whose model has been called and not answered."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        side.expect_all_waiting()
        cue = f"slow: {WAIT_S}; say: hello"
        waiting = [asyncio.create_task(side.run(number, cue)) for number in range(WAITING)]
        async with asyncio.timeout(BEGUN_WITHIN_S):
            await side.all_wait.wait()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for run in waiting:
        run.cancel()
    await asyncio.wait(waiting)
    return (after - before) / 1024 / WAITING


async def _nothing() -> CheckpointSaved | None:
    """Load no checkpoint: a session's first turn."""
    return None


async def _nowhere(_: AgentToken) -> None:
    """Take a token."""
