"""Synchronous tools run in threads of their template, and one that hangs is nobody else's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool

from millstream.agents.factory import AgentFactory
from millstream.agents.loop.calls import Calls
from millstream.agents.loop.tools.tool_threads import ToolThreads
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import Effect, ToolRegistry, tool
from millstream.schemas.errors import Misconfigured
from tests.fakes.odd_models import OddModel, calling
from tests.harness.agent_runs import Runs
from tests.harness.call_bench import DONE, bench
from tests.support import eventually

BLOCKED_S = 60


class Blocking:
    """A tool that blocks until it is let go, and how many of it run."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.running = 0

    def __call__(self) -> str:
        """Block."""
        self.running += 1
        self.let_go.wait(BLOCKED_S)
        self.running -= 1
        return "done"


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    made = Blocking()
    yield made
    made.let_go.set()


def runs_of(*tools: BaseTool, **template: Any) -> Runs:
    registry = ToolRegistry(tools)
    own = [
        AgentTemplate(name=name, kind="react", tools=registry.names(), **template)
        for name in ("own", "other")
    ]
    calls = calling(*((name, {}, f"c-{name}") for name in registry.names()))

    def resolve(*_: object, **__: object) -> OddModel:
        def says() -> AIMessage:
            return AIMessage("done") if model.results(-1) else calls

        model = OddModel(says=[says])
        return model

    return Runs(AgentFactory(templates=own, tools=registry, resolve=resolve))


def plain(function: Any, name: str = "blocks") -> BaseTool:
    return StructuredTool.from_function(function, name=name, description="x")


async def test_a_thread_that_outlives_its_time_fails_the_run_and_is_counted_until_it_ends(
    blocking: Blocking,
) -> None:
    runs = runs_of(plain(blocking.__call__), attempt_timeout_s=0.2, tool_grace_s=0.1)
    calls = Calls()
    outcome = await runs.run("x", template="own", calls=calls)
    assert outcome.result.reason is not None
    assert (outcome.result.reason.code, outcome.retryable) == ("tool_stuck", False)
    assert "blocks" in outcome.result.reason.message
    assert calls.in_doubt == {"c-blocks": "blocks"}
    assert (runs.factory.tool_threads_lost, blocking.running) == (1, 1)
    blocking.let_go.set()
    await eventually(lambda: runs.factory.tool_threads_lost == 0 and blocking.running == 0)


async def test_a_thread_that_ends_within_the_grace_is_not_lost(blocking: Blocking) -> None:
    runs = runs_of(plain(blocking.__call__), attempt_timeout_s=0.2, tool_grace_s=30)
    asyncio.get_running_loop().call_later(0.4, blocking.let_go.set)
    outcome = await runs.run("x", template="own")
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "attempt_timed_out"
    assert runs.factory.tool_threads_lost == 0


@pytest.mark.parametrize("effect", ["idempotent", "ask_human"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_thread_that_answers_within_the_grace_has_answered(
    effect: Effect, *, fails: bool
) -> None:
    made, let_go = 0, threading.Event()

    def pay() -> str:
        """Pay."""
        nonlocal made
        made += 1
        let_go.wait(60)
        if fails:
            message = "no money"
            raise ValueError(message)
        return "paid"

    asyncio.get_running_loop().call_later(0.2, let_go.set)
    pays = tool(effect=effect, timeout_s=0.05)(pay)
    one = bench([calling(("pay", {}, "c1")), DONE], pays, tool_grace_s=30)
    assert (await one.run()).result.output == "done"
    # Neither made again nor in doubt: what became of it is known.
    assert made == 1
    assert one.model.results(1)[0].content == ("ValueError: no money" if fails else "paid")


async def test_tools_that_block_hold_up_their_own_template_only(blocking: Blocking) -> None:
    runs = runs_of(plain(blocking.__call__), tool_threads_max=2)
    bystander = Runs(runs.factory)
    many = [asyncio.create_task(Runs(runs.factory).run("x", template="own")) for _ in range(12)]
    await eventually(lambda: blocking.running == 2)
    other = asyncio.create_task(bystander.run("x", template="other"))
    await eventually(lambda: blocking.running == 3)
    blocking.let_go.set()
    outcomes = await asyncio.gather(other, *many)
    assert {outcome.result.status for outcome in outcomes} == {"completed"}


class Classic(BaseTool):
    """A tool as a class without an asynchronous way."""

    name: str = "classic"
    description: str = "x"

    def _run(self) -> str:
        return threading.current_thread().name


async def test_every_kind_of_synchronous_tool_runs_in_such_a_thread() -> None:
    threads = ToolThreads("own", threads_max=1, grace_s=0)

    def told(config: RunnableConfig, x: str = "") -> str:
        assert config["metadata"] == {"known": 1}
        return threading.current_thread().name + x

    async def apart() -> str:
        return threading.current_thread().name

    config: RunnableConfig = {"metadata": {"known": 1}}
    assert await threads.threaded(Classic()).ainvoke({}, config) == "tool-classic"
    made = threads.threaded(plain(told, "told"))
    assert await made.ainvoke({"x": "!"}, config) == "tool-told!"
    own = StructuredTool.from_function(coroutine=apart, name="apart", description="x")
    assert await threads.threaded(own).ainvoke({}) == threading.current_thread().name


async def test_a_plain_function_around_an_asynchronous_one_is_awaited() -> None:
    threads = ToolThreads("own", threads_max=1, grace_s=0)

    async def asked(x: str) -> str:
        return f"asked {x}"

    # stanfordnlp/dspy#7906: the model was told `<coroutine object …>`.
    made = threads.threaded(plain(lambda x="1": asked(x)))
    assert await made.ainvoke({"x": "2"}) == "asked 2"


def yields(x: str = "") -> Iterator[str]:
    yield x


async def yields_later(x: str = "") -> AsyncIterator[str]:
    yield x


@pytest.mark.parametrize("function", [yields, yields_later])
@pytest.mark.parametrize("kind", ["func", "coroutine"])
async def test_a_generator_of_which_nothing_was_run_is_not_a_tools_result(
    function: Callable[..., Any], kind: str
) -> None:
    # wanxingai/LightAgent#107: the model was told `<async_generator object …>`.
    with pytest.raises(Misconfigured, match="'blocks' is a generator"):
        ToolRegistry(
            [StructuredTool.from_function(**{kind: function}, name="blocks", description="x")]
        )

    def gives() -> Any:
        return function()

    async def gives_later() -> Any:
        return function()

    given: Any = gives if kind == "func" else gives_later
    tool = StructuredTool.from_function(**{kind: given}, name="blocks", description="x")
    (threaded,) = map(ToolThreads("own", threads_max=1, grace_s=0).threaded, [tool])
    with pytest.raises(TypeError, match="returned a generator"):
        await threaded.ainvoke({})


async def test_a_thread_that_raises_what_no_future_takes_says_so() -> None:
    threads = ToolThreads("own", threads_max=1, grace_s=0)

    def stops() -> str:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.run("stops", stops)
