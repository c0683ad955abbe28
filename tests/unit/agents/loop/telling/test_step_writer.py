"""Steps of an attempt: what is told of calls of models and tools, in order and bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool

from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.loop.calls import Calls
from millstream.agents.loop.telling.step_writer import RECORDED_MAX, StepWriter
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import ToolRegistry, built_in_tools
from millstream.schemas.errors import LaneLost, Suspended
from millstream.schemas.steps import ARGUMENTS_BYTES_MAX, RESULT_BYTES_MAX, AgentStep
from tests.harness.agent_runs import Runs, resolved
from tests.harness.step_runs import kinds, require_sound

SUM = 'call: calculator {"expression": "12*12"}; say: it is {tool_result}'
MODEL = ["model_start", "model_end"]
TOOL = ["tool_start", "tool_end"]


class Steps:
    """Runs that are asked for their steps."""

    def __init__(self, *tools: BaseTool, **template: Any) -> None:
        registry = ToolRegistry([*built_in_tools(), *tools])
        names = ("calculator", *(tool.name for tool in tools))
        own = AgentTemplate(name="own", kind="react", tools=names, **template)
        self.runs = Runs(AgentFactory(default_model="scripted", templates=[own], tools=registry))
        self.told: list[AgentStep] = []

    async def emit(self, steps: Sequence[AgentStep]) -> None:
        """Take steps."""
        self.told += steps

    async def run(self, script: str, **given: Any) -> Any:
        """Run a script to its end, and check its steps."""
        given.setdefault("executor", AgentExecutor(self.runs.factory))
        given = {"emit_step": self.emit, **given}
        outcome = await self.runs.run(script, template="own", **given)
        require_sound(self.told)
        return outcome


def tool(name: str, function: Any) -> BaseTool:
    if asyncio.iscoroutinefunction(function):
        return StructuredTool.from_function(coroutine=function, name=name, description=name)
    return StructuredTool.from_function(function, name=name, description=name)


async def test_an_image_that_a_tool_gave_is_told_of_by_its_label() -> None:
    image = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
    within = tool("within", lambda: [image])

    async def look() -> Any:
        await within.ainvoke({})
        return [{"type": "text", "text": "seen"}, image]

    events: list[CallbackEvent] = []

    async def hear(event: CallbackEvent) -> None:
        events.append(event)

    steps = Steps(tool("look", look))
    executor = AgentExecutor(steps.runs.factory, on_event=hear)
    await steps.run("call: look {}; say: done", executor=executor)
    (told,) = (one.result for one in steps.told if one.kind == "tool_end")
    assert told == "seen [image/png, 8 B]"
    ended = [one.detail for one in events if one.kind == "tool_end"]
    assert ended == ["[image/png, 8 B]", "seen [image/png, 8 B]"]


async def test_a_run_tells_of_its_calls_with_arguments_result_usage_and_time() -> None:
    steps = Steps()
    outcome = await steps.run(SUM)
    assert kinds(steps.told) == [*MODEL, *TOOL, *MODEL]
    asked, answered, called, returned, _, last = steps.told
    assert (asked.name, answered.name, answered.finish_reason) == (
        "scripted",
        "scripted",
        "tool_calls",
    )
    assert asked.call_id == answered.call_id
    assert called.call_id == returned.call_id != asked.call_id
    assert json.loads(called.arguments or "") == {"expression": "12*12"}
    assert (returned.name, returned.result, returned.result_cut) == ("calculator", "144", False)
    assert returned.duration_ms is not None
    assert answered.usage is not None
    assert last.usage is not None
    assert answered.usage + last.usage == outcome.result.usage
    assert {step.attempt for step in steps.told} == {outcome.result.attempt}


# openai/openai-agents-python#1037: a call was told of only once its result was there.
async def test_a_call_is_told_of_before_it_is_made() -> None:
    seen: list[list[str]] = []
    steps = Steps(tool("look", lambda: seen.append(kinds(steps.told)) or "seen"))
    await steps.run("call: look {}; say: x")
    assert seen == [[*MODEL, "tool_start"]]


# earendil-works/pi#3503: calls side by side were shown as pending until the slowest had ended.
async def test_of_parallel_calls_each_ends_when_it_does() -> None:
    last = asyncio.Event()

    async def first() -> str:
        await last.wait()
        return "first"

    async def second() -> str:
        return "second"

    steps = Steps(tool("first", first), tool("second", second))
    emit = steps.emit

    async def release(told: Sequence[AgentStep]) -> None:
        await emit(told)
        if "tool_end" in kinds(told):
            last.set()

    steps.emit = release  # type: ignore[method-assign]
    await steps.run("call: first {} + second {}; say: x")
    ended = [step.result for step in steps.told if step.kind == "tool_end"]
    assert ended == ["second", "first"]


# agno-agi/agno#4925: what is called behind a tool was not called where the tool failed.
# langchain-ai/langchain#37426: without the id of the call, nobody knows which one it was.
async def test_a_tool_that_raises_ends_as_an_error_of_the_same_call() -> None:
    def fails() -> str:
        message = "no such order"
        raise ValueError(message)

    steps = Steps(tool("fails", fails))
    await steps.run("call: fails {}; say: x")
    assert kinds(steps.told) == [*MODEL, "tool_start", "tool_error", *MODEL]
    start, end = steps.told[2:4]
    assert start.call_id == end.call_id
    assert start.call_id is not None
    assert end.reason is not None
    assert (end.reason.code, end.reason.message) == ("tool_failed", "ValueError: no such order")


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("call: nowhere {}; say: x", "tool_call_not_made"),
        ("call: calculator {}; say: x", "tool_failed"),
    ],
    ids=["unknown tool", "wrong arguments"],
)
async def test_a_call_that_is_not_made_has_a_beginning_and_an_error(script: str, code: str) -> None:
    steps = Steps()
    await steps.run(script)
    assert kinds(steps.told) == [*MODEL, "tool_start", "tool_error", *MODEL]
    assert steps.told[3].reason is not None
    assert steps.told[3].reason.code == code


async def test_arguments_and_results_are_cut_between_characters_and_say_so() -> None:
    steps = Steps(tool("big", lambda text: "é" * (len(text) and RESULT_BYTES_MAX)))
    await steps.run(f'call: big {{"text": "{"é" * ARGUMENTS_BYTES_MAX}"}}; say: x')
    start, end = steps.told[2:4]
    for told, bytes_max in (
        (start.arguments, ARGUMENTS_BYTES_MAX),
        (end.result, RESULT_BYTES_MAX),
    ):
        assert bytes_max - 2 <= len((told or "").encode()) <= bytes_max
    assert (start.arguments_cut, end.result_cut) == (True, True)


async def test_a_name_or_id_of_any_length_that_a_model_gave_is_cut_where_steps_tell_it() -> None:
    told: list[AgentStep] = []

    async def emit(steps: Sequence[AgentStep]) -> None:
        told.extend(steps)

    writer = StepWriter(
        resolved("x"), attempt=1, emit=emit, clock_ms=lambda: 1, text_bytes=lambda: 0
    )
    await writer.write("tool_start", name="\x01" * 400_000, call_id="\ud800" + "\u00e9" * 400_000)
    await writer.close()
    (step,) = told
    assert (len(step.name or ""), len((step.call_id or "").encode())) == (1_024, 1_023)
    assert len(step.model_dump_json()) < 10_000


async def test_half_characters_of_a_model_or_tool_fail_no_step() -> None:
    steps = Steps(tool("odd", lambda text: f"{text}\udc00"))
    outcome = await steps.run('call: odd {"text": "\\ud83d"}; say: x')
    assert outcome.result.status == "completed"
    assert steps.told[3].kind == "tool_end"
    for step in steps.told:
        step.model_dump_json()


async def test_a_step_says_where_in_the_text_it_stands() -> None:
    steps = Steps()
    outcome = await steps.run('call: calculator {"expression": "1"}; say: Grüße an alle')
    text = (outcome.result.output or "").encode()
    places = [step.text_bytes for step in steps.told]
    assert places == [0, 0, 0, 0, 0, len(text)]


async def test_what_an_earlier_attempt_finished_is_told_again_as_recorded() -> None:
    steps, calls = Steps(), Calls()
    script = 'call: calculator {"expression": "12*12"}; retry: overloaded'
    first = await steps.run(script, calls=calls)
    assert first.retryable
    assert kinds(steps.told) == [*MODEL, *TOOL, "model_start", "model_error"]
    assert steps.told[-1].reason is not None
    assert steps.told[-1].reason.code == "model_failed"
    steps.told.clear()
    await steps.run(script, calls=calls, attempt=1001, steps_from=0)
    assert [(step.kind, step.recorded) for step in steps.told] == [
        *((kind, True) for kind in (*MODEL, *TOOL)),
        ("model_start", False),
        ("model_error", False),
    ]
    assert steps.told[3].result == "144"


async def test_recorded_steps_leave_together_and_ahead_of_the_next_one() -> None:
    steps, calls = Steps(model_calls_max=40), Calls()
    script = 'call: calculator {"expression": "1"}; ' * 30 + "retry: overloaded"
    await steps.run(script, calls=calls)
    sizes, emit = [], steps.emit

    async def count(told: Sequence[AgentStep]) -> None:
        sizes.append(len(told))
        await emit(told)

    steps.emit = count  # type: ignore[method-assign]
    steps.told.clear()
    await steps.run(script, calls=calls, attempt=1001)
    assert len(steps.told) == 30 * len([*MODEL, *TOOL]) + len(["model_start", "model_error"])
    assert sizes == [RECORDED_MAX, 120 - RECORDED_MAX + 1, 1]


async def test_recorded_steps_of_an_attempt_that_ends_behind_them_leave_all_the_same() -> None:
    steps, calls = Steps(), Calls()
    script = 'call: calculator {"expression": "12*12"}; retry: overloaded'
    await steps.run(script, calls=calls)
    steps.told.clear()

    async def never() -> None:
        message = "the request is paused"
        raise Suspended(message)

    await steps.run(script, calls=calls, attempt=1001, before_call=never)
    assert [(step.kind, step.recorded) for step in steps.told] == [
        (kind, True) for kind in (*MODEL, *TOOL)
    ]


@pytest.mark.parametrize("raised", [SystemExit(3), asyncio.CancelledError("mine"), MemoryError()])
async def test_a_tool_that_ends_the_run_is_told_of(raised: BaseException) -> None:
    async def exits() -> str:
        raise raised

    steps = Steps(tool("exits", exits))
    outcome = await steps.run("call: exits {}; say: x")
    assert outcome.result.status == "failed"
    assert kinds(steps.told) == [*MODEL, "tool_start", "tool_error"]


async def test_a_step_that_cannot_be_written_ends_the_attempt() -> None:
    steps = Steps()

    async def lost(_: Sequence[AgentStep]) -> None:
        message = "steps are not acknowledged"
        raise LaneLost(message)

    steps.emit = lost  # type: ignore[method-assign]
    with pytest.raises(LaneLost, match="steps are not acknowledged"):
        await steps.run(SUM)


async def test_a_run_that_is_cut_off_in_a_tool_ends_at_once_and_tells_no_more() -> None:
    began = asyncio.Event()

    async def hangs() -> str:
        began.set()
        await asyncio.Event().wait()
        return "never"

    steps = Steps(tool("hangs", hangs))
    running = asyncio.create_task(steps.run("call: hangs {}; say: x"))
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert kinds(steps.told) == [*MODEL, "tool_start"]


async def test_a_step_on_its_way_is_not_cut_short_by_a_time_limit() -> None:
    steps = Steps(attempt_timeout_s=0.05)
    emit, late = steps.emit, asyncio.Event()

    async def slow(told: Sequence[AgentStep]) -> None:
        if kinds(told) == ["tool_start"]:
            asyncio.get_running_loop().call_later(0.1, late.set)
            await late.wait()
        await emit(told)

    steps.emit = slow  # type: ignore[method-assign]
    outcome = await steps.run(SUM)
    assert outcome.result.status == "failed"
    assert kinds(steps.told) == [*MODEL, "tool_start"]


async def test_statistics_count_attempts_and_calls() -> None:
    steps = Steps()
    executor = AgentExecutor(steps.runs.factory)
    for script in (SUM, SUM, "fail: no"):
        await steps.run(script, executor=executor, emit_step=None)
    told = executor.statistics
    assert dict(told.attempts) == {"completed": 2, "failed": 1}
    assert (told.running, told.tools["calculator"].calls) == (0, 2)
    assert told.model_calls == 4
    assert told.as_dict()["attempts"] == {"completed": 2, "failed": 1}
