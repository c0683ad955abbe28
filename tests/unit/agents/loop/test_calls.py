"""Tool calls as models really make them: whole or not made, told, and made once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.tools import StructuredTool

from millstream.agents.executor import AgentExecutor
from millstream.agents.loop.calls import Calls
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import ToolRules
from millstream.schemas.errors import LaneLost, ModelFailed
from tests.fakes.odd_models import calling
from tests.harness.agent_runs import NOW_MS, resolved
from tests.harness.call_bench import DONE, Refunds, bench, end, piece

NOT_WHOLE = {
    "no JSON": [piece("{'order': '1'}", "c1", "refund"), end("tool_calls")],
    "no object": [piece('["1"]', "c1", "refund"), end("tool_calls")],
    "a number": [piece("12", "c1", "refund"), end("tool_calls")],
    "cut": [piece('{"order": "1', "c1", "refund"), piece('2"', None), end("tool_calls")],
    "pieces without an index": [
        piece('{"order": ', "c1", "refund", None),
        piece('"1"}', None, None, None),
        end("tool_calls"),
    ],
    "pieces without an id": [piece('{"order":', None, "refund"), piece('"1"}'), end("tool_calls")],
    "two at one index": [
        piece('{"order": "1"}', "c1", "refund"),
        piece('{"order": "2"}'),
        end("tool_calls"),
    ],
    "no name": [piece('{"order": "1"}', "c1"), end("tool_calls")],
    "the same id twice": [
        piece('{"order": "1"}', "c1", "refund", 0),
        piece('{"order": "2"}', "c1", "refund", 1),
        end("tool_calls"),
    ],
}


@pytest.mark.parametrize("pieces", NOT_WHOLE.values(), ids=NOT_WHOLE)
async def test_a_call_that_is_not_whole_is_not_made_and_told_to_the_model(
    pieces: list[AIMessageChunk],
) -> None:
    refunds = Refunds()
    one = bench([pieces, DONE], refunds.tool(), streams=True)
    outcome = await one.run()
    assert (outcome.result.status, outcome.result.output) == ("completed", "done")
    assert refunds.made == []
    (answer, *results) = one.model.seen[1][1:]
    assert isinstance(answer, AIMessage)
    assert results
    assert [result.tool_call_id for result in one.model.results(1)] == [  # each has its own
        call["id"] for call in answer.tool_calls
    ]
    assert {result.status for result in one.model.results(1)} == {"error"}
    assert not answer.invalid_tool_calls


@pytest.mark.parametrize("streams", [True, False])
async def test_an_invalid_call_beside_a_good_one_costs_the_good_one_nothing(
    *, streams: bool
) -> None:
    refunds = Refunds()
    invalid = {
        "name": "refund",
        "args": "{'",
        "id": "c2",
        "error": "no",
        "type": "invalid_tool_call",
    }
    said: Any = AIMessage(
        "",
        tool_calls=[{"name": "refund", "args": {"order": "1"}, "id": "c1"}],
        invalid_tool_calls=[invalid],
    )
    if streams:
        said = [piece('{"order": "1"}', "c1", "refund"), piece("{'", "c2", "refund", 1)]
    one = bench([said, DONE], refunds.tool(), streams=streams)
    assert (await one.run()).result.status == "completed"
    assert refunds.made == ["1"]
    first, second = one.model.results(1)
    assert (first.tool_call_id, first.content) == ("c1", "refunded 1")
    assert (second.tool_call_id, second.status) == ("c2", "error")


async def test_a_call_cut_at_the_limit_of_tokens_fails_the_run_and_says_so() -> None:
    refunds = Refunds()
    said = [piece('{"order": "1', "c1", "refund"), end("length")]
    outcome = await bench([said, DONE], refunds.tool(), streams=True).run()
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "tool_call_cut"
    assert refunds.made == []


async def test_a_call_that_is_announced_and_not_made_is_asked_for_again() -> None:
    said = AIMessage("", response_metadata={"finish_reason": "tool_calls"})
    one = bench([said, DONE], Refunds().tool())
    outcome = await one.run()
    assert (outcome.result.output, len(one.model.seen)) == ("done", 2)
    endless = bench([said], Refunds().tool(), model_calls_max=3)
    outcome = await endless.run()
    assert outcome.result.reason is not None
    assert (outcome.result.status, len(endless.model.seen)) == ("failed", 3)
    assert "announced a tool call" in outcome.result.reason.message


async def test_a_model_that_never_makes_a_whole_call_fails_with_what_was_wrong() -> None:
    said = [piece("{'order'", "c1", "refund"), end("tool_calls")]
    one = bench([said], Refunds().tool(), streams=True, model_calls_max=3)
    outcome = await one.run()
    assert outcome.result.reason is not None
    assert len(one.model.seen) == 3
    assert "not JSON" in outcome.result.reason.message


async def test_calls_side_by_side_each_have_their_result_in_order() -> None:
    def broken(order: str) -> str:
        message = f"out of paper: {order}"
        raise OSError(message)

    async def slow(order: str) -> str:
        await asyncio.sleep(0.05)  # noqa: TID251  ends behind the others
        return order

    tools = (
        Refunds().tool(),
        StructuredTool.from_function(broken, name="broken", description="x"),
        StructuredTool.from_function(coroutine=slow, name="slow", description="x"),
    )
    calls = calling(
        ("slow", {"order": "1"}, "c1"),
        ("broken", {"order": "2"}, "c2"),
        ("nosuch", {}, "c3"),
        ("refund", {"order": "4"}, "c4"),
        ("refund", {"wrong": {}, "order": []}, "c5"),
    )
    one = bench([calls, DONE], *tools)
    assert (await one.run()).result.status == "completed"
    results = one.model.results(1)
    assert [result.tool_call_id for result in results] == ["c1", "c2", "c3", "c4", "c5"]
    told = [str(result.content) for result in results]
    assert told[0] == "1"
    assert told[1] == "OSError: out of paper: 2"
    assert "not a valid tool" in told[2]
    assert told[3] == "refunded 4"
    assert "valid string" in told[4]


async def test_an_error_is_told_cut_and_ends_the_run_only_if_the_registration_says_so() -> None:
    def broken() -> str:
        raise ValueError("x" * 10_000 + "\ud800")

    tool = StructuredTool.from_function(broken, name="broken", description="x")
    one = bench([calling(("broken", {}, "c1")), DONE], tool)
    assert (await one.run()).result.status == "completed"
    (told,) = one.model.results(1)
    assert str(told.content).startswith("ValueError: xxx")
    assert len(str(told.content)) < 2_100
    strict = bench([calling(("broken", {}, "c1")), DONE], Refunds().tool())
    strict.registry.register(tool, ToolRules(ends_run_on_error=True))
    own = AgentTemplate(name="own", version="2", kind="react", tools=("broken",))
    strict.runs.factory.register(own)
    outcome = await strict.run()
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "tool_failed"
    assert "ValueError: xxx" in outcome.result.reason.message


async def test_an_id_that_was_used_before_is_another_call() -> None:
    refunds = Refunds()
    says = [calling(("refund", {"order": str(n)}, "call_0")) for n in (1, 2)]
    one = bench([*says, DONE], refunds.tool())
    assert (await one.run()).result.status == "completed"
    assert refunds.made == ["1", "2"]
    assert [result.content for result in one.model.results(2)] == ["refunded 1", "refunded 2"]
    assert len({result.tool_call_id for result in one.model.results(2)}) == 2


async def test_answers_that_share_an_id_do_not_take_each_others_place() -> None:
    says = [calling(("refund", {"order": str(n)}, f"c{n}")) for n in (1, 2)]
    for said in says:
        said.id = "same"
    one = bench([*says, AIMessage("done", id="same")], Refunds().tool())
    assert (await one.run()).result.output == "done"
    assert [message.type for message in one.model.seen[2]] == ["human", "ai", "tool", "ai", "tool"]


@pytest.mark.parametrize("streams", [True, False])
async def test_a_second_attempt_repeats_no_finished_call_and_writes_its_text_again(
    *, streams: bool
) -> None:
    refunds, calls = Refunds(), Calls()
    says = [
        calling(("refund", {"order": "1"}, "c1"), text="let me see"),
        ModelFailed("overloaded"),
        DONE,
    ]
    one = bench(says, refunds.tool(), streams=streams)
    first = await one.run(calls=calls)
    assert (first.result.status, first.retryable) == ("failed", True)
    second = await one.run(calls=calls, attempt=1001, announce=True)
    assert second.result.output == "let me see\n\ndone"
    assert refunds.made == ["1"]
    assert len(one.model.seen) == 3
    assert calls.effects == {"c1": "refund"}
    assert calls.in_doubt == {}
    assert [result.content for result in one.model.results(2)] == ["refunded 1"]


async def test_a_call_that_was_cut_off_is_in_doubt() -> None:
    begun = asyncio.Event()

    async def hangs() -> str:
        begun.set()
        await asyncio.get_running_loop().create_future()
        return ""

    tool = StructuredTool.from_function(coroutine=hangs, name="pay", description="x")
    one, calls = bench([calling(("pay", {}, "c1"))], tool, attempt_timeout_s=0.2), Calls()
    outcome = await one.run(calls=calls)
    assert outcome.retryable
    assert calls.in_doubt == {"c1": "pay"}


async def test_only_the_call_in_doubt_is_made_again() -> None:
    made: list[str] = []

    async def pay(order: str) -> str:
        made.append(order)
        if made == ["1", "2"]:
            await asyncio.get_running_loop().create_future()
        return f"paid {order}"

    tool = StructuredTool.from_function(coroutine=pay, name="pay", description="x")
    says = [calling(("pay", {"order": "1"}, "c1")), calling(("pay", {"order": "2"}, "c2")), DONE]
    one, calls = bench(says, tool, attempt_timeout_s=0.2, in_doubt="retry"), Calls()
    assert (await one.run(calls=calls)).retryable
    second = await one.run(calls=calls, attempt=1001, announce=True)
    assert second.result.output == "done"
    assert (made, len(one.model.seen)) == (["1", "2", "2"], 3)


async def test_a_tool_with_a_json_schema_is_checked_like_any_other() -> None:
    made: list[Any] = []

    async def pay(**given: Any) -> str:
        made.append(given)
        return "paid"

    schema = {"type": "object", "properties": {"cents": {"type": "integer"}}, "required": ["cents"]}
    tool = StructuredTool(name="pay", description="x", args_schema=schema, coroutine=pay)
    says = [calling(("pay", {"cents": "many"}, "c1"), ("pay", {"cents": 5}, "c2")), DONE]
    one = bench(says, tool)
    assert (await one.run()).result.status == "completed"
    assert made == [{"cents": 5}]
    assert "$.cents: 'many' is not of type 'integer'" in str(one.model.results(1)[0].content)


async def test_what_a_tool_does_to_its_arguments_is_not_told_to_the_model() -> None:
    # langchain-ai/langchain#24621: the model, and the session, had another call than it made.
    def adds(order: dict[str, Any]) -> str:
        order["items"].append("more")
        order["handle"] = object()
        return "added"

    schema = {"type": "object", "properties": {"order": {"type": "object"}}}
    tool = StructuredTool(name="adds", description="x", args_schema=schema, func=adds)
    one = bench([calling(("adds", {"order": {"items": ["one"]}}, "c1")), DONE], tool)
    outcome = await one.run()
    assert (outcome.result.status, one.model.results(1)[0].content) == ("completed", "added")
    (said,) = (message for message in one.model.seen[1] if isinstance(message, AIMessage))
    assert said.tool_calls[0]["args"] == {"order": {"items": ["one"]}}


async def test_a_run_by_another_executor_than_the_lanes_needs_no_calls() -> None:
    one = bench([calling(("refund", {"order": "1"}, "c1")), DONE], Refunds().tool())
    executor = AgentExecutor(one.runs.factory, clock_ms=lambda: NOW_MS)
    outcome = await one.runs.run(resolved("x", template="own"), executor=executor)
    assert outcome.result.output == "done"


async def test_a_lane_that_is_lost_inside_a_tools_own_tasks_is_not_told_to_the_model() -> None:
    async def asks() -> str:
        async def lost() -> None:
            message = "fenced"
            raise LaneLost(message)

        async with asyncio.TaskGroup() as group:
            group.create_task(lost())
        return ""

    tool = StructuredTool.from_function(coroutine=asks, name="asks", description="x")
    one = bench([calling(("asks", {}, "c1")), DONE], tool)
    with pytest.raises(LaneLost):
        await one.run()
