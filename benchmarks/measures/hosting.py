"""What it costs that agents have an event loop of their own, beside agents on the caller's loop.

No Kafka: the scripted model, tokens that go nowhere. In turns on the caller's loop (*direct*) and
on another thread's (*hosted*, as in a worker): a single model call (*call*), LangGraph's loop with
a tool (*loop*), and an answer of many tokens (*tokens*), 64 attempts at a time. A single call by
itself is the worst case: a run in a worker costs several times as much (`engine`, `waiting`).
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Callable, Iterator

import uvloop

from benchmarks.report import Figure
from millstream.agents.executor import AgentExecutor, RunAgent, nothing_to_load
from millstream.agents.factory import AgentFactory
from millstream.agents.hosting.agents_loop import AgentsOfLoop
from millstream.agents.hosting.host import AgentHost
from millstream.agents.models.resolve import keep_traces_local, resolve_model
from millstream.schemas.base import Address
from millstream.schemas.events import AgentToken, ResolvedRequest

__all__ = ["run"]

ROUNDS = 9
AT_A_TIME = 64
OBJECTS_PER_COLLECTION = 400_000
TOKENS = 400
SHARE_MIN = 0.9

_TASKS = {
    "call": ("chat_agent", "say: hello", 512),
    "loop": ("react_agent", 'call: calculator {"expression": "1+1"}; say: {tool_result}', 192),
    "tokens": ("chat_agent", f"pace: 0; tokens: {TOKENS}", 64),
}


def run() -> Iterator[Figure]:
    """Measure in this process. Raises `RuntimeError` if a run does not complete."""
    keep_traces_local()
    # As a worker has it: what more is alive while attempts run costs nothing then.
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_PER_COLLECTION)
    for name, (template, text, runs) in _TASKS.items():
        took_s, cpu_s = uvloop.run(_measure(template, text, runs))
        for side in ("direct", "hosted"):
            rate = statistics.median(runs / each for each in took_s[side])
            cpu_ms = statistics.median(each * 1000 / runs for each in cpu_s[side])
            yield Figure(f"hosting_{name}_{side}_rate", rate, "runs/s")
            yield Figure(f"hosting_{name}_{side}_cpu", cpu_ms, "ms/run")
            if name == "tokens":
                yield Figure(f"hosting_{side}_tokens_rate", rate * TOKENS, "tokens/s")
        pairs = zip(took_s["direct"], took_s["hosted"], strict=True)
        share = statistics.median(direct / hosted for direct, hosted in pairs)
        yield Figure(f"hosting_{name}_rate_over_direct", share, "times", SHARE_MIN)


async def _measure(
    template: str, text: str, runs: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Give by side the seconds and the CPU seconds of each round."""
    factory = AgentFactory(default_model="scripted")
    host = AgentHost(lambda: AgentsOfLoop(AgentExecutor(factory.twin(resolve_model)).run))
    sides: dict[str, RunAgent] = {"direct": AgentExecutor(factory).run, "hosted": host.run}
    took_s: dict[str, list[float]] = {name: [] for name in sides}
    cpu_s: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1, ROUNDS):
        for name, run_agent in sides.items():
            gc.collect()
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            await _many(factory, run_agent, template, text, runs)
            if number >= 0:
                took_s[name].append(time.perf_counter() - began_s)
                cpu_s[name].append(time.process_time() - began_cpu_s)
    await host.close()
    return took_s, cpu_s


async def _many(
    factory: AgentFactory, run_agent: RunAgent, template: str, text: str, runs: int
) -> None:
    numbers = iter(range(runs))

    async def work(next_number: Callable[[], int | None]) -> None:
        while (number := next_number()) is not None:
            await _one(factory, run_agent, template, text, number)

    await asyncio.gather(*(work(lambda: next(numbers, None)) for _ in range(AT_A_TIME)))


async def _one(
    factory: AgentFactory, run_agent: RunAgent, template: str, text: str, number: int
) -> None:
    request = ResolvedRequest(
        user_id="user",
        request_id=f"request-{number}",
        session_id=f"session-{number}",
        template=template,
        input=text,
        source=Address(topic="none", partition=0, offset=number),
    )
    outcome = await run_agent(
        request,
        factory.plan(request),
        attempt=1000,
        load_checkpoint=nothing_to_load,
        emit=_nowhere,
        before_call=_goes_on,
    )
    if outcome.result.status != "completed":
        message = f"a run ended as {outcome.result.status}: {outcome.result.reason}"
        raise RuntimeError(message)


async def _nowhere(_: AgentToken) -> None:
    """Take a token."""


async def _goes_on() -> None:
    """Let a call be made."""
