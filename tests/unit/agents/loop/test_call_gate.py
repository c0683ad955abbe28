"""A run asks before each call, whatever its template, and a no ends it."""

from __future__ import annotations

import pytest

from millstream.agents.executor import AgentExecutor
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.schemas.errors import LaneLost
from tests.harness.agent_runs import Runs

SUM = 'call: calculator {"expression": "2 + 3 * 4"}; say: it is {tool_result}'
ANSWER = 'call: Answer {"answer": "yes", "keywords": []}'


@pytest.mark.parametrize(
    ("template", "script", "calls"),
    [("chat_agent", "hello", 1), ("react_agent", SUM, 3), ("structured_agent", ANSWER, 1)],
)
async def test_a_run_asks_before_each_model_and_tool_call_and_waits_for_the_answer(
    template: str, script: str, calls: int
) -> None:
    runs, asked = Runs(), list[int]()

    async def before_call() -> None:
        asked.append(len(runs.tokens))

    outcome = await runs.run(script, template=template, before_call=before_call)
    assert outcome.result.status == "completed"
    assert asked == [0] * calls  # the text comes after the last call


@pytest.mark.parametrize("call", [1, 2, 3])
async def test_a_run_that_may_not_make_a_call_does_not_make_it_and_has_no_result(call: int) -> None:
    runs, made, asked = Runs(), list[str](), 0

    async def before_call() -> None:
        nonlocal asked
        asked += 1
        if asked == call:
            message = "out of the group"
            raise LaneLost(message)

    async def listen(event: CallbackEvent) -> None:
        made.append(event.kind)

    executor = AgentExecutor(runs.factory, on_event=listen)
    with pytest.raises(LaneLost):
        await runs.run(SUM, template="react_agent", executor=executor, before_call=before_call)
    starts = [kind for kind in made if kind.endswith("_start")]
    assert starts == ["model_start", "tool_start", "model_start"][: call - 1]
    assert asked == call
