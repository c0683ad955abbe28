"""Whatever a run's code raises is one failed result of that run, and no one else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.tools import StructuredTool
from structlog.testing import capture_logs

from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.hosting.agents_loop import AgentsOfLoop
from millstream.agents.hosting.host import AgentHost
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import ToolRegistry, built_in_tools
from tests.contracts.run_agent_contract import Attempts
from tests.fakes.odd_models import (
    OddModel,
    StreamingOddModel,
    calling,
    raising,
    raising_later,
)
from tests.harness.agent_runs import Runs

OWN = AgentTemplate(name="own", kind="react", tools=("odd", "calculator"))
TEMPLATES = ["chat_agent", "own", "structured_agent"]


@pytest.fixture(autouse=True)
def without_tracebacks() -> Iterator[None]:
    # To print one takes seconds, of frames as many as these.
    with capture_logs():
        yield


class Mute(Exception):
    """An error that cannot be written (getsentry/sentry-python#1118)."""

    def __str__(self) -> str:
        """Raise."""
        message = "cannot say"
        raise ValueError(message)


def stops() -> list[BaseException]:
    return [
        asyncio.CancelledError(),
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        BaseExceptionGroup("several", [SystemExit(2), ValueError("x")]),
    ]


def faults() -> list[BaseException]:
    return [
        *stops(),
        ExceptionGroup("several", [ValueError("x"), TypeError("y")]),
        RecursionError("too deep"),
        MemoryError(),
        StopAsyncIteration(),
        Mute(),
    ]


def runs_of(model: OddModel, tool: Callable[..., Any] | None = None) -> Runs:
    registry = ToolRegistry(built_in_tools())
    is_async = asyncio.iscoroutinefunction(tool)
    registry.register(
        StructuredTool.from_function(
            func=None if is_async else tool or raising(ValueError()),
            coroutine=tool if is_async else None,
            name="odd",
            description="Odd",
        )
    )
    templates = (*BUILT_IN_TEMPLATES, OWN)
    return Runs(AgentFactory(templates=templates, tools=registry, resolve=lambda *_, **__: model))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", [OddModel, StreamingOddModel])
@pytest.mark.parametrize("raised", faults(), ids=repr)
async def test_what_a_model_raises_is_a_failed_result(
    template: str, kind: type[OddModel], raised: BaseException
) -> None:
    runs = runs_of(kind(says=[raised]))
    outcome = await runs.run("x", template=template)
    assert outcome.result.status == "failed"
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "failed"
    runs.assert_text_is_the_tokens(outcome)
    runs.factory = runs_of(OddModel(says=[AIMessage("fine")])).factory
    assert (await runs.run("x", template="chat_agent")).result.output == "fine"


@pytest.mark.parametrize("make", [raising, raising_later])
@pytest.mark.parametrize("raised", stops(), ids=repr)
async def test_a_tool_that_exits_or_cancels_itself_is_a_failed_result(
    make: Callable[[BaseException], Callable[..., Any]], raised: BaseException
) -> None:
    model = OddModel(says=[calling(("odd", {}, "c1")), AIMessage("on we go")])
    outcome = await runs_of(model, make(raised)).run("x", template="own")
    assert outcome.result.status == "failed"
    assert len(model.seen) == 1


async def test_a_reason_names_what_was_raised() -> None:
    outcome = await runs_of(OddModel(says=[SystemExit(3)])).run("x", template="own")
    assert outcome.result.reason is not None
    assert outcome.result.reason.message == "SystemExit: 3"


async def test_a_model_that_cancels_the_task_it_runs_in_is_not_the_lane() -> None:
    def cancels() -> AIMessage:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        raise asyncio.CancelledError

    outcome = await runs_of(OddModel(says=[cancels])).run("x", template="own")
    assert outcome.result.status == "failed"


@pytest.mark.parametrize("raised", faults(), ids=repr)
async def test_a_listener_never_fails_a_run_whatever_it_raises(raised: BaseException) -> None:
    async def listen(_: CallbackEvent) -> None:
        raise raised

    model = OddModel(says=[calling(("calculator", {"expression": "1"}, "c1")), AIMessage("one")])
    runs = runs_of(model)
    executor = AgentExecutor(runs.factory, on_event=listen)
    outcome = await runs.run("x", template="own", executor=executor)
    assert (outcome.result.status, outcome.result.output) == ("completed", "one")


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("when", ["on_chat_model_start", "on_llm_end"])
@pytest.mark.parametrize("raised", faults(), ids=repr)
async def test_what_a_models_own_callback_raises_ends_its_run_also_on_a_loop_of_agents(
    template: str, when: str, raised: BaseException
) -> None:
    # openai/openai-agents-python#3829: a `GeneratorExit` closed the run, and nobody heard of it.
    async def raise_it(*_: Any, **__: Any) -> None:
        raise raised

    own = AsyncCallbackHandler()
    own.raise_error = True
    setattr(own, when, raise_it)
    factory = runs_of(StreamingOddModel(says=[AIMessage("fine")], callbacks=[own])).factory
    host = AgentHost(lambda: AgentsOfLoop(AgentExecutor(factory).run))
    try:
        async with asyncio.timeout(10):
            outcome = await Attempts(host.run, factory).make("x", template=template)
    finally:
        await host.close()
    assert outcome.result.status == "failed"


@pytest.mark.parametrize("kind", ["func", "coroutine"])
async def test_a_generator_exit_of_a_tools_future_or_thread_fails_its_run(kind: str) -> None:
    async def awaits(x: str = "") -> str:  # noqa: ARG001  models give one
        broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        broken.set_exception(GeneratorExit())
        return await broken

    model = OddModel(says=[calling(("odd", {}, "c1")), AIMessage("on we go")])
    tool = awaits if kind == "coroutine" else raising(GeneratorExit())
    factory = runs_of(model, tool).factory
    host = AgentHost(lambda: AgentsOfLoop(AgentExecutor(factory).run))
    try:
        async with asyncio.timeout(10):
            outcome = await Attempts(host.run, factory).make("x", template="own")
    finally:
        await host.close()
    assert outcome.result.reason is not None
    assert "GeneratorExit" in outcome.result.reason.message


@pytest.mark.parametrize("raised", faults(), ids=repr)
async def test_a_resolver_that_exits_is_a_failed_result(raised: BaseException) -> None:
    def resolve(*_: object, **__: object) -> OddModel:
        raise raised

    runs = Runs(AgentFactory(resolve=resolve))
    assert (await runs.run("x")).result.status == "failed"


@pytest.mark.parametrize("make", [raising, raising_later])
async def test_an_error_that_cannot_be_written_is_told_to_the_model_by_its_type(
    make: Callable[[BaseException], Callable[..., Any]],
) -> None:
    async def listen(_: CallbackEvent) -> None:
        pass

    model = OddModel(says=[calling(("odd", {}, "c1")), AIMessage("on we go")])
    runs = runs_of(model, make(Mute()))
    executor = AgentExecutor(runs.factory, on_event=listen)
    outcome = await runs.run("x", template="own", executor=executor)
    assert outcome.result.output == "on we go"
    assert [result.content for result in model.results(1)] == ["Mute"]


async def test_a_neighbour_goes_on() -> None:
    runs = runs_of(OddModel(says=[calling(("odd", {}, "c1"))]), raising_later(SystemExit(1)))
    bystander = Runs()
    waiting = asyncio.create_task(bystander.run("pace: 0.01; tokens: 20"))
    assert (await runs.run("x", template="own")).result.status == "failed"
    assert (await waiting).result.status == "completed"


async def test_tasks_outside_of_runs_are_as_they_were() -> None:
    await runs_of(OddModel(says=[AIMessage("hi")])).run("x")
    task = asyncio.create_task(asyncio.Event().wait())
    assert type(task.get_coro()).__name__ == "coroutine"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
