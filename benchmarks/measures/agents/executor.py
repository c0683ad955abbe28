"""What `AgentExecutor` takes around a model that does nothing, beside LangChain's own agent.

CPU per request, in turns, in this process. The peer is what `create_agent` gives, with an in-memory
saver, called once for each request in a thread of its own. *call* is an agent without tools, *loop*
one with a tool, whose model does not call it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import uvloop
from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool
from langgraph.checkpoint.memory import InMemorySaver

from benchmarks.report import Figure
from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.models.resolve import keep_traces_local
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import built_in_tools
from millstream.schemas.base import Address
from millstream.schemas.events import AgentToken, CheckpointSaved, ResolvedRequest

__all__ = ["run"]

ROUNDS = 9
RUNS = 300
MOST = {"call": 1.0, "loop": 1.3}
QUESTION = "What is 12 times 12?"

Ask = Callable[[int], Awaitable[None]]


class NoModel(BaseChatModel):
    """Answers at once, and counts what a provider would."""

    @property
    def _llm_type(self) -> str:
        return "none"

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        """Take any tools."""
        del tools
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        del messages
        usage = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
        said = AIMessage("It is 144.", usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=said)])

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return self._generate(messages)


def run() -> Iterator[Figure]:
    """Measure in this process. Raises `RuntimeError` if a run does not complete."""
    keep_traces_local()
    tools = [tool for tool in built_in_tools() if tool.name == "calculator"]
    sides = {
        "call": _executor(AgentTemplate(name="own")),
        "call_langchain": _langchain([]),
        "loop": _executor(AgentTemplate(name="own", kind="react", tools=("calculator",))),
        "loop_langchain": _langchain(tools),
    }
    cpu_ms = uvloop.run(_measure(sides))
    for name in sides:
        yield Figure(f"executor_{name}_cpu", statistics.median(cpu_ms[name]), "ms/run")
    for name in ("call", "loop"):
        pairs = zip(cpu_ms[name], cpu_ms[f"{name}_langchain"], strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        yield Figure(
            f"executor_{name}_to_langchain", ratio, "ratio", target=MOST[name], at_most=True
        )


async def _measure(sides: dict[str, Ask]) -> dict[str, list[float]]:
    numbers = count()
    for ask in sides.values():
        await _many(ask, numbers)
    gc.collect()
    gc.freeze()
    cpu_ms: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, ask in sides.items():
            began_s = time.process_time()
            await _many(ask, numbers)
            cpu_ms[name].append((time.process_time() - began_s) * 1000 / RUNS)
    return cpu_ms


async def _many(ask: Ask, numbers: Iterator[int]) -> None:
    for _ in range(RUNS):
        await ask(next(numbers))


def _executor(template: AgentTemplate) -> Ask:
    factory = AgentFactory(templates=[template], resolve=lambda *_, **__: NoModel())
    executor = AgentExecutor(factory)

    async def ask(number: int) -> None:
        request = ResolvedRequest(
            user_id="user",
            request_id=f"request-{number}",
            session_id=f"session-{number}",
            template=template.name,
            input=QUESTION,
            source=Address(topic="none", partition=0, offset=number),
        )
        plan = factory.plan(request)
        outcome = await executor.run(
            request, plan, attempt=1000, load_checkpoint=_nothing, emit=_nowhere
        )
        if outcome.result.status != "completed":
            message = f"a run ended as {outcome.result.status}: {outcome.result.reason}"
            raise RuntimeError(message)

    return ask


def _langchain(tools: list[BaseTool]) -> Ask:
    # All threads stay in the saver, as a server's would until it deletes them.
    agent = create_agent(NoModel(), tools, checkpointer=InMemorySaver())

    async def ask(number: int) -> None:
        config: Any = {"configurable": {"thread_id": f"session-{number}"}}
        state: Any = {"messages": [{"role": "user", "content": QUESTION}]}
        await agent.ainvoke(state, config)

    return ask


async def _nothing() -> CheckpointSaved | None:
    """Load no checkpoint: a session's first turn."""
    return None


async def _nowhere(_: AgentToken) -> None:
    """Take a token."""
