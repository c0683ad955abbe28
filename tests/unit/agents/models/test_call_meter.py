"""What the models cost that an attempt calls: the agent's own, and those of its tools."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from langchain.chat_models import init_chat_model
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.tools import BaseTool, StructuredTool
from structlog.testing import capture_logs

from millstream.agents.attempt import RunOutcome
from millstream.agents.factory import AgentFactory
from millstream.agents.models.call_meter import CallMeter
from millstream.agents.models.known.unseen import SHOWN
from millstream.agents.models.resolve import resolve_model
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import ToolRegistry
from millstream.schemas.errors import ModelFailed
from tests.harness.agent_runs import Runs

EXPERT = "scripted:say: a b c d e f g"
OWN = AgentTemplate(name="own", kind="react", tools=("ask",))


def expert() -> str:
    return resolve_model(EXPERT).invoke("q").text


async def awaited() -> str:
    return (await resolve_model(EXPERT).ainvoke("q")).text


async def in_a_task() -> str:
    return await asyncio.create_task(awaited())


async def in_a_group() -> str:
    async with asyncio.TaskGroup() as group:
        told = group.create_task(awaited())
    return told.result()


async def handed_to_a_thread() -> str:
    return await asyncio.to_thread(expert)


async def in_the_loops_pool() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, expert)


def in_a_pool() -> str:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(expert).result()


def in_a_thread() -> str:
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(expert()))
    thread.start()
    thread.join()
    return told[0]


def in_a_loop_of_its_own() -> str:
    return asyncio.run(awaited())


async def blocking_the_loop() -> str:
    return expert()


async def from_a_pool_of_an_async_tool() -> str:
    with ThreadPoolExecutor(1) as pool:
        return await asyncio.wrap_future(pool.submit(expert))


def tool_of(ask: Callable[..., Any]) -> BaseTool:
    how = {"coroutine": ask} if asyncio.iscoroutinefunction(ask) else {"func": ask}
    return StructuredTool.from_function(name="ask", description="Ask.", **how)


def runs_of(ask: Callable[..., Any]) -> Runs:
    tools = ToolRegistry([tool_of(ask)])
    return Runs(AgentFactory(default_model="scripted", templates=[OWN], tools=tools))


async def outcome_of(ask: Callable[..., Any]) -> RunOutcome:
    return await runs_of(ask).run("call: ask {}; say: done", template="own")


WAYS: list[Callable[[], str] | Callable[[], Awaitable[str]]] = [
    *(expert, awaited, in_a_task, in_a_group, handed_to_a_thread, in_the_loops_pool, in_a_pool),
    *(in_a_thread, in_a_loop_of_its_own, blocking_the_loop, from_a_pool_of_an_async_tool),
]


@pytest.mark.parametrize("ask", WAYS, ids=lambda ask: ask.__name__)
async def test_a_tools_model_is_counted_under_its_own_name(ask: Callable[..., Any]) -> None:
    outcome = await outcome_of(ask)
    assert (outcome.result.status, outcome.result.output) == ("completed", "done")
    # One record a call, in the order in which they ended.
    assert [call.model for call in outcome.calls] == [None, EXPERT, None]
    assert outcome.calls[1].usage.output_tokens == 7
    assert outcome.usage_known


async def test_a_pool_that_outlives_a_run_charges_each_call_to_the_run_that_makes_it() -> None:
    with ThreadPoolExecutor(1) as pool:

        def ask() -> str:
            return pool.submit(expert).result()

        runs = runs_of(ask)
        for _ in range(2):
            outcome = await runs.run("call: ask {}; say: done", template="own")
            assert Counter(call.model for call in outcome.calls) == {None: 2, EXPERT: 1}
        # Made outside of runs, by a thread that was made within one.
        pool.submit(expert).result()
    assert Counter(call.model for call in outcome.calls) == {None: 2, EXPERT: 1}


async def test_runs_side_by_side_pay_each_for_its_own() -> None:
    runs = [runs_of(in_a_pool) for _ in range(5)]
    scripts = [f"call: ask {{}}; say: {' '.join('x' * n)}" for n in range(1, 6)]
    outcomes = await asyncio.gather(
        *(one.run(script, template="own") for one, script in zip(runs, scripts, strict=True))
    )
    for number, outcome in enumerate(outcomes, start=1):
        assert [call.model for call in outcome.calls] == [None, EXPERT, None]
        assert outcome.calls[2].usage.output_tokens == number


async def test_a_model_that_langchain_made_is_named_as_langchain_has_it() -> None:
    meter = CallMeter(10)
    model = init_chat_model("openai:gpt-x", api_key="key")
    params = dict(model._get_ls_params())
    call = meter.begin(uuid4(), [HumanMessage("x")], {}, params, is_own=False)
    assert call.model == "openai:gpt-x"
    assert meter.begin(uuid4(), [], {}, {}, is_own=False).model == "unknown"


async def test_a_tools_completion_model_counts_as_well() -> None:
    async def ask() -> str:
        return await FakeListLLM(responses=["yes"]).ainvoke("q")

    outcome = await outcome_of(ask)
    assert outcome.result.output == "done"
    (call,) = (one for one in outcome.calls if one.model is not None)
    assert call.estimate_reason is not None


def begun(meter: CallMeter, *, is_own: bool = True, **params: Any) -> Any:
    run_id = uuid4()
    call = meter.begin(run_id, [HumanMessage("12345678")], params, {}, is_own=is_own)
    return run_id, call


SENT = 8 + 2 * 16


@pytest.mark.parametrize(
    ("error", "pieces", "output_tokens"),
    [
        (ModelFailed("overloaded"), [], None),  # it was refused
        (ModelFailed("it told an error", is_over=False), ["four"], 4 + 64),
        (ModelFailed("it ended", may_cost=True, is_over=True), ["four"], 4 + 64),
        (ModelFailed("it ended", may_cost=True, is_over=True), [], 64),
        (ModelFailed("it ended", may_cost=True, is_over=True), ["x" * 190], 200),
        (ModelFailed("no JSON", may_cost=True), ["four"], 4 + 64),
        (ConnectionResetError(), ["four"], 4 + 64),
        (asyncio.CancelledError(), [], 200),
    ],
)
def test_a_call_that_broke_off_is_estimated_by_what_came_once_it_is_over(
    error: BaseException, pieces: list[str], output_tokens: int | None
) -> None:
    meter = CallMeter(200)
    run_id, call = begun(meter)
    for piece in pieces:
        call.hear(piece)
    meter.fail(run_id, error)
    used = [(one.usage.input_tokens, one.usage.output_tokens) for one in meter.close()]
    assert used == ([] if output_tokens is None else [(SENT, output_tokens)])


@pytest.mark.parametrize(
    ("shown", "params", "pieces", "output_tokens"),
    [
        ("all", {}, [], 64),
        ("all", {}, ["four"], 4 + 64),
        ("all", {}, ["x" * 190], 200),  # never above its limit
        ("all", {}, ["x"] * 300, 300 + 64),  # which did not hold
        ("all", {"reasoning_effort": "low"}, ["four"], 200),
        ("all", {"reasoning_effort": "none"}, ["four"], 4 + 64),
        ("all", {"reasoning": {"effort": "high", "summary": None}}, ["four"], 200),
        ("all", {"thinking": {"type": "enabled", "budget_tokens": 100}}, ["four"], 200),
        ("all", {"thinking": {"type": "disabled"}}, ["four"], 4 + 64),
        ("all", {"thinking_budget": 0}, ["four"], 4 + 64),
        ("all", {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}, [], 200),
        ("part", {}, ["four"], 200),
        ("part", {"reasoning_effort": None}, ["four"], 200),
        ("part", {"reasoning_effort": "none"}, ["four"], 4 + 64),
        ("part", {"thinking": {"type": "disabled"}}, [], 64),
        ("part", {"thinking_budget": 0, "include_thoughts": True}, [], 200),
        ("nothing", {}, [], 200),
        ("unknown", {}, [], 200),
        ("unknown", {}, ["four"], 4 + 64),
        ("what nobody says", {}, [], 200),
    ],
)
def test_a_call_that_is_cut_off_counts_up_to_its_limit_only_what_nobody_saw(
    shown: str, params: dict[str, Any], pieces: list[str], output_tokens: int
) -> None:
    meter = CallMeter(200)
    call = meter.begin(uuid4(), [HumanMessage("12345678")], params, {SHOWN: shown}, is_own=True)
    for piece in pieces:
        call.hear(piece)
    (told,) = meter.close()
    assert told.usage.output_tokens == output_tokens
    assert told.estimate_reason == "a model call was cut off"


THOUGHT = {"input_tokens": 9, "output_tokens": 50, "output_token_details": {"reasoning": 40}}


@pytest.mark.parametrize(("thought", "output_tokens"), [(None, 200), ("hm", 4 + 64)])
def test_reasoning_that_was_reported_and_not_streamed_is_expected_of_later_calls(
    thought: str | None, output_tokens: int
) -> None:
    meter, metadata = CallMeter(200), {SHOWN: "all"}
    first, second = uuid4(), uuid4()
    call = meter.begin(first, [HumanMessage("q")], {}, metadata, is_own=True)
    if thought is not None:
        call.look_at(AIMessageChunk("", additional_kwargs={"reasoning_content": thought}))
    call.report(THOUGHT)
    meter.end(first, AIMessage("yes"))
    meter.begin(second, [HumanMessage("q")], {}, metadata, is_own=True).hear("four")
    _, told = meter.close()
    assert told.usage.output_tokens == output_tokens


def test_a_call_that_reported_unseen_reasoning_before_it_was_cut_off_counts_up_to_its_limit() -> (
    None
):
    meter = CallMeter(200)
    call = meter.begin(uuid4(), [HumanMessage("q")], {}, {SHOWN: "all"}, is_own=True)
    call.hear("four")
    call.report(THOUGHT)
    (told,) = meter.close()
    assert (told.usage.input_tokens, told.usage.output_tokens) == (9, 200)


@pytest.mark.parametrize(
    ("before", "output_tokens"),
    [
        ([], 200),
        ([HumanMessage("and now?")], 4 + 64),  # that was another turn's
    ],
)
def test_an_answer_that_an_earlier_attempt_kept_tells_of_unseen_reasoning_too(
    before: list[BaseMessage], output_tokens: int
) -> None:
    meter = CallMeter(200)
    reasoned = AIMessage("", usage_metadata={**THOUGHT, "total_tokens": 59})  # type: ignore[typeddict-item]
    messages = [HumanMessage("q"), reasoned, *before, ToolMessage("2", tool_call_id="c1")]
    meter.begin(uuid4(), messages, {}, {SHOWN: "all"}, is_own=True).hear("four")
    (told,) = meter.close()
    assert told.usage.output_tokens == output_tokens


def test_what_was_reported_so_far_counts_where_more_was_written_than_came() -> None:
    meter = CallMeter(200)
    call = meter.begin(uuid4(), [HumanMessage("q")], {}, {SHOWN: "all"}, is_own=True)
    call.hear("four")
    call.report({"input_tokens": 9, "output_tokens": 150})
    (told,) = meter.close()
    assert told.usage.output_tokens == 150


def test_what_was_reported_before_a_call_broke_off_counts() -> None:
    meter = CallMeter(200)
    run_id, call = begun(meter)
    # As Anthropic does with the first event of a stream.
    call.report({"input_tokens": 9, "output_tokens": 1, "input_token_details": {"cache_read": 4}})
    call.hear("four")
    meter.fail(run_id, ModelFailed("it ended", may_cost=True, is_over=True))
    (told,) = meter.close()
    assert (told.usage.input_tokens, told.usage.cache_read_tokens) == (9, 4)
    assert told.usage.output_tokens == 4 + 64


def test_a_tools_call_that_is_under_way_counts_up_to_its_own_limit() -> None:
    meter = CallMeter(200)
    begun(meter, is_own=False, max_completion_tokens=30)
    begun(meter, is_own=False)
    assert [call.usage.output_tokens for call in meter.close()] == [30, 200]
    assert len(meter.close()) == 2  # it may be asked again


@pytest.mark.parametrize(
    ("read", "wrote", "limit", "is_believed"),
    [
        (10_000, 10_000, {}, (True, True)),  # of what the provider keeps, and thoughts
        (10_000, 10_000, {"max_tokens": 256}, (True, False)),
        (2**62, 2**62, {}, (False, False)),
        (0, -1, {}, (False, False)),
    ],
)
def test_a_tools_report_is_checked_too_by_what_can_be_seen_of_its_call(
    read: int, wrote: int, limit: dict[str, int], is_believed: tuple[bool, bool]
) -> None:
    meter = CallMeter(200)
    run_id, call = begun(meter, is_own=False, **limit)
    call.report({"input_tokens": read, "output_tokens": wrote})
    meter.end(run_id, AIMessage("yes"))
    (told,) = meter.close()
    assert (told.usage.input_tokens == read, told.usage.output_tokens == wrote) == is_believed
    assert (told.estimate_reason is None) == all(is_believed)


async def test_the_log_names_the_request_and_the_model_of_an_estimate() -> None:
    own = AgentTemplate(name="own", attempt_timeout_s=0.2)
    runs = Runs(AgentFactory(default_model="scripted", templates=[own]))
    with capture_logs() as logs:
        await runs.run("pace: 0.05; endless", template="own", request_id="r7")
    (told,) = (log for log in logs if log["event"] == "the usage of a model call is estimated")
    assert (told["request_id"], told["model"]) == ("r7", "scripted")


def test_a_call_of_what_a_run_left_behind_is_nobodys() -> None:
    meter = CallMeter(200)
    assert meter.close() == ()
    run_id, _ = begun(meter, is_own=False)
    meter.end(run_id, AIMessage("late"))
    assert meter.close() == ()


async def test_a_call_that_the_lane_does_not_let_be_made_costs_nothing() -> None:
    async def never() -> None:
        message = "no"
        raise ModelFailed(message)

    runs = Runs()
    outcome = await runs.run("say: x", before_call=never)
    assert (outcome.result.status, outcome.calls) == ("failed", ())
