"""What is charged where a model call has no answer, and what a result tells of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from millstream.agents.factory import AgentFactory
from millstream.agents.templates.memory import NoMemory
from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from millstream.middleware.policy import Price
from millstream.middleware.prices import PriceTable
from millstream.schemas.runs.reservations import CallReserved
from millstream.schemas.topics import RESERVATIONS
from tests.harness.agent_runs import resolved
from tests.harness.memory_lanes import give
from tests.harness.quick_time import run_quickly
from tests.providers.case import Bench, Case, Ended, case_of, in_memory
from tests.support import eventually

pytestmark = pytest.mark.promise("P5")

TEXT = "All is"
PIECE = {
    "choices": [
        {"index": 0, "delta": {"role": "assistant", "content": TEXT}, "finish_reason": None}
    ]
}
BROKEN = {"sse": [PIECE], "end": "eof"}
WELL = {"says": ["All is well"]}
PRICES = {"openai:fake": Price(input_usd_per_mtok=1, output_usd_per_mtok=10)}  # type: ignore[arg-type]
LIMIT = 256
ALLOWANCE = 64


def case(*answers: Mapping[str, Any], **fields: Any) -> Case:
    asked = {"input": "say", "user_id": "ada"}
    server = {"say": list(answers)}
    return case_of({"name": "", "requests": [asked], "server": server, "right": [{}], **fields})


async def ended(played: Case, template: str) -> Ended:
    async with in_memory(played) as bench:
        return await bench.run("say", request_id="r1", session_id="s", template=template)


@pytest.mark.parametrize("template", ["chat_agent", "react_agent", "structured_agent"])
@pytest.mark.parametrize(
    ("answer", "written"),
    [
        (BROKEN, len(TEXT)),
        ({"sse": [], "end": "done"}, 0),
        ({"sse": [], "end": "eof"}, 0),
        ({"sse": [PIECE, {"error": {"code": "overloaded", "message": "no"}}]}, len(TEXT)),
    ],
    ids=["no-end", "end-mark-alone", "nothing", "error-behind-text"],
)
def test_a_stream_that_its_provider_ended_costs_what_came(
    answer: Mapping[str, Any], written: int, template: str
) -> None:
    told = run_quickly(ended(case(answer, WELL), template))
    assert told.result.status == "completed"
    broken, whole = told.costs
    assert broken.usage.output_tokens == written + ALLOWANCE < LIMIT
    assert (broken.estimated, whole.estimated) == (True, False)
    assert broken.estimate_reason is not None
    assert (broken.calls, whole.calls) == (1, 1)


def test_a_stream_whose_connection_broke_counts_what_came_of_it() -> None:
    told = run_quickly(ended(case({**BROKEN, "end": "reset"}, WELL), "chat_agent"))
    assert len(told.result.output or "") < 64 <= told.costs[0].usage.output_tokens < LIMIT


def test_a_failed_result_has_all_the_text_that_came() -> None:
    pieces = [
        {"choices": [{"index": 0, "delta": {"content": f"w{n} "}, "finish_reason": None}]}
        for n in range(30)
    ]
    told = run_quickly(ended(case({"sse": pieces, "end": "eof"}), "chat_agent"))
    assert told.result.status == "failed"
    assert told.result.output == "".join(f"w{n} " for n in range(30))


def worst_micros(template: str) -> int:
    plan = AgentFactory(default_model="openai:fake", templates=BUILT_IN_TEMPLATES).plan(
        resolved("say", template=template)
    )
    rates = PriceTable(PRICES).rates("openai:fake", 0)
    assert rates is not None
    return rates.worst_micros(plan.first_call, 1)


@pytest.mark.parametrize("template", ["chat_agent", "react_agent"])
@pytest.mark.parametrize("backoff_s", [0.01, 5], ids=["in-memory", "parked"])
def test_a_budget_that_lets_no_other_attempt_begin_does_not_hide_why_the_first_failed(
    template: str, backoff_s: float
) -> None:
    cap = {"defaults": {"spend": {"micros_per_day": worst_micros(template)}}}
    retry = BUILT_IN_TEMPLATES[0].retry.model_copy(update={"backoff_first_s": backoff_s})
    told = run_quickly(ended(case(BROKEN, WELL, policy=cap, template={"retry": retry}), template))
    reason = told.result.reason
    assert (told.result.status, len(told.costs)) == ("failed", 1)
    assert reason is not None
    assert reason.code == "budget_exceeded"
    assert "the last attempt failed: model_failed: the model's stream ended" in reason.message
    assert told.result.cost_micros == told.costs[0].cost_micros > 0


async def cancelled(played: Case) -> Ended:
    async with in_memory(played) as bench:
        return await _cancelled(bench)


async def _cancelled(bench: Bench) -> Ended:
    asking = asyncio.ensure_future(
        bench.run("say", request_id="r1", session_id="s", template="react_agent")
    )
    await eventually(lambda: len(bench.provider.calls) == 2)
    bench.lane.serve(*await give(bench.where, bench.program, "cancel", request_id="r1"))
    told = await asking
    # The connection was closed: a cancel that comes with a chunk is not lost.
    assert bench.provider.pieces_taken[1] < 10_000
    return told


def test_a_cancelled_attempt_is_charged_for_the_calls_that_it_made() -> None:
    call = {"name": "calculator", "arguments": '{"expression": "1+1"}'}
    calling = {"index": 0, "id": "c1", "type": "function", "function": call}
    asks = {
        "sse": [
            {
                "choices": [
                    {"index": 0, "delta": {"tool_calls": [calling]}, "finish_reason": "tool_calls"}
                ]
            },
            {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}},
        ]
    }
    goes_on = {"sse": [PIECE] * 20_000}
    told = run_quickly(cancelled(case(asks, goes_on, template={"output_tokens_max": 131_072})))
    assert told.result.status == "cancelled"
    first, second = told.costs
    assert (first.estimated, first.usage.output_tokens, first.cost_micros) == (False, 5, 60)
    # Of the limit only what came: what the provider would have gone on to, nobody pays.
    assert (second.estimated, 64 < second.usage.output_tokens < 100_000) == (True, True)
    assert second.estimate_reason == "a model call was cut off"


def test_estimates_of_calls_that_kept_to_their_limits_are_within_what_was_reserved() -> None:
    """Of a provider that reports nothing, and an agent that remembers nothing."""
    template = {"memory": NoMemory(), "model_calls_max": 4, "output_tokens_max": 40}
    text = [
        {"choices": [{"index": 0, "delta": {"content": "w\u00f6rd" * 3}, "finish_reason": None}]}
    ] * 30

    def calling(number: int) -> dict[str, Any]:
        call = {"name": "calculator", "arguments": '{"expression": "1"}'}
        told = {"index": 0, "id": f"c{number}", "type": "function", "function": call}
        end = {"index": 0, "delta": {"tool_calls": [told]}, "finish_reason": "tool_calls"}
        return {"sse": [*text, {"choices": [end]}]}

    answers = [
        *(calling(number) for number in range(3)),
        {"says": ["w\u00f6rd"] * 39, "usage": None},
    ]

    async def played() -> tuple[Ended, list[CallReserved]]:
        async with in_memory(case(*answers, template=template)) as bench:
            told = await bench.run("say", request_id="r1", session_id="s", template="react_agent")
            reserved = await bench.harness.read_whole(bench.where, RESERVATIONS, CallReserved)
            return told, reserved

    told, reserved = run_quickly(played())
    assert (told.result.status, len(told.costs)) == ("completed", 4)
    assert all(cost.estimated for cost in told.costs)
    assert told.result.cost_micros <= reserved[-1].reserved_micros
