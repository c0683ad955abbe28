"""Models that a tool calls: each on the bill by itself, under its own name and price."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import StructuredTool

from millstream.agents.models.resolve import resolve_model
from millstream.agents.templates.template import AgentTemplate
from millstream.agents.tools import ToolRegistry
from millstream.schemas.events import CostRecorded
from tests.harness.quick_time import run_quickly
from tests.providers.case import Bench, Case, Ended, case_of, in_memory

pytestmark = pytest.mark.promise("P5")

OWN = AgentTemplate(name="own_tools", kind="react", tools=("ask_expert",))
CALL = {"index": 0, "id": "c_1", "type": "function"}
ASKING = {
    "sse": [
        {
            "choices": [
                {
                    "index": 0,
                    "delta": {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {**CALL, "function": {"name": "ask_expert", "arguments": '{"x": "q"}'}}
                        ],
                    },
                    "finish_reason": None,
                }
            ]
        },
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}},
    ]
}
EXPERT_SAYS = {
    "says": ["yes"],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200},
}
CASE = case_of(
    {
        "name": "a tool's own model is charged at its own price",
        "prices": {
            "openai:fake": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 10},
            "openai:expert": {"input_usd_per_mtok": 10, "output_usd_per_mtok": 40},
        },
        "requests": [{"user_id": "ada", "input": "ask", "template": "own_tools"}],
        "server": {"ask": [ASKING, {"says": ["done"]}], "[expert] " + "q" * 1000: [EXPERT_SAYS]},
        "right": [{"status": "completed"}],
    }
)


def tool_of(url: str, how: str, model: str = "openai:expert") -> StructuredTool:
    def expert() -> Any:
        return resolve_model(model, base_url=url, api_key="key", max_tokens=256)

    asked = "[expert] " + "q" * 1000

    async def awaited(x: str) -> str:  # noqa: ARG001  the model gives it
        return (await expert().ainvoke(asked)).text

    def sync(x: str) -> str:  # noqa: ARG001  the model gives it
        return expert().invoke(asked).text

    def in_a_pool(x: str) -> str:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(sync, x).result()

    def in_a_loop_of_its_own(x: str) -> str:
        return asyncio.run(awaited(x))

    ways: dict[str, Callable[..., Any]] = {
        "awaited": awaited,
        "sync": sync,
        "in a pool": in_a_pool,
        "in a loop of its own": in_a_loop_of_its_own,
    }
    kind = "coroutine" if how == "awaited" else "func"
    return StructuredTool.from_function(
        name="ask_expert", description="Ask an expert.", **{kind: ways[how]}
    )


@asynccontextmanager
async def bench_with(case: Case, how: str, **fields: Any) -> AsyncIterator[Bench]:
    async with in_memory(
        case, templates=(OWN,), tools=lambda url: ToolRegistry([tool_of(url, how, **fields)])
    ) as bench:
        yield bench


async def asked(case: Case, how: str, **fields: Any) -> Ended:
    async with bench_with(case, how, **fields) as bench:
        return await bench.run("ask", request_id="r1", session_id="s", template="own_tools")


def told(costs: tuple[CostRecorded, ...]) -> list[tuple[Any, ...]]:
    return [
        (cost.call, cost.model, cost.usage.input_tokens, cost.usage.output_tokens, cost.cost_micros)
        for cost in costs
    ]


@pytest.mark.parametrize("how", ["awaited", "sync", "in a pool", "in a loop of its own"])
def test_each_call_is_a_record_at_the_price_of_its_model(how: str) -> None:
    ended = run_quickly(asked(CASE, how))
    assert (ended.result.status, ended.result.output) == ("completed", "done")
    assert told(ended.costs) == [
        (0, "openai:fake", 10, 5, 60),
        (1, "openai:expert", 1000, 200, 18_000),
        (2, "openai:fake", 10, 5, 60),
    ]
    assert ended.result.cost_micros == 18_120
    assert {cost.calls for cost in ended.costs} == {1}
    assert not any(cost.estimated for cost in ended.costs)
    assert len({cost.event_id for cost in ended.costs}) == 3


def test_a_tools_model_without_a_price_is_a_gap_and_does_not_pass_for_the_agents() -> None:
    ended = run_quickly(
        asked(replace(CASE, prices={"openai:fake": CASE.prices["openai:fake"]}), "sync")
    )
    assert told(ended.costs)[1] == (1, "openai:expert", 1000, 200, 0)
    assert ended.costs[1].price_digest == "unpriced"
    assert ended.result.cost_micros == 120


class Named(BaseChatModel):
    """A model of an integration that names it as it likes."""

    named: Any

    @property
    def _llm_type(self) -> str:
        return "named"

    def _get_ls_params(self, *_: Any, **__: Any) -> Any:
        return {"ls_provider": "own", "ls_model_name": self.named, "ls_model_type": "chat"}

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("yes"))])


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("gpt\ud83d", "own:gpt?"),
        ("gpt\x00\n", "own:gpt\x00\n"),
        (5, "own:5"),
        ("", "own"),
        ("n" * 10_000, "own:" + "n" * 252),
    ],
    ids=["half", "control", "number", "none", "long"],
)
def test_a_model_may_have_any_name(named: Any, told: str) -> None:
    # BerriAI/litellm#39136, apache/apisix#13637: names come from outside.
    def asks(x: str) -> str:
        return Named(named=named).invoke(x).text

    async def play() -> Ended:
        tool = StructuredTool.from_function(asks, name="ask_expert", description="Ask.")
        async with in_memory(CASE, (OWN,), lambda _: ToolRegistry([tool])) as bench:
            return await bench.run("ask", request_id="r1", session_id="s", template="own_tools")

    ended = run_quickly(play())
    assert (ended.result.status, ended.result.output) == ("completed", "done")
    assert [cost.model for cost in ended.costs] == ["openai:fake", told, "openai:fake"]


def test_a_retry_charges_for_no_call_again_that_an_earlier_attempt_finished() -> None:
    overloaded = {"status": 503, "json": {"error": {"message": "later", "code": "overloaded"}}}
    server = {**CASE.server, "ask": [ASKING, overloaded, {"says": ["done"]}]}
    ended = run_quickly(asked(replace(CASE, server=server), "awaited"))
    assert [cost.model for cost in ended.costs] == ["openai:fake", "openai:expert", "openai:fake"]
    assert len({cost.attempt for cost in ended.costs}) == 2
    assert ended.result.cost_micros == 18_120
