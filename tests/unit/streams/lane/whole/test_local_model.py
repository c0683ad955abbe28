"""The local model and its tools through a whole lane: the records are those of any other model."""

from __future__ import annotations

import pytest

from millstream.agents.loop.callbacks import CallbackEvent
from millstream.middleware.policy import Policy
from millstream.schemas.base import NO_USAGE
from millstream.schemas.events import AgentResult, AgentToken, CostRecorded
from millstream.schemas.topics import COSTS, RESULTS, TOKENS
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    upstream,
)

pytestmark = [pytest.mark.model, pytest.mark.timeout(60)]

PRICED = """\
prices: {local: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
roles: {any: {templates: ["*"], permissions: ["*"], models: [local]}}
defaults: {roles: [any]}
"""


@pytest.mark.promise("P3")
async def test_the_local_model_calls_tools_in_a_lane_and_is_charged_for_all_of_its_calls(
    world: MemoryLanes,
) -> None:
    calls: list[str] = []

    async def note(event: CallbackEvent) -> None:
        calls.append(event.kind)

    async with (
        lane_services(world, note) as services,
        upstream(world) as program,
        one_lane(world, services, Policy.from_yaml(PRICED, "test")) as owner,
    ):
        text = "Use the calculator: 12*12"
        owner.serve(*await ask(program, text, template="react_agent", model="local"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.status == "completed", result.reason
    tokens = await read_whole(world, TOKENS, AgentToken)
    assert "".join(token.text for token in tokens) == result.output
    assert result.output
    # What the grammar promises. Further on in a text a brace may stand, as the model is sampled.
    assert not result.output.startswith("{")
    costs = await read_whole(world, COSTS, CostRecorded)
    assert sum((cost.usage for cost in costs), NO_USAGE) == result.usage
    for cost in costs:
        assert cost.cost_micros == cost.usage.input_tokens + 2 * cost.usage.output_tokens
        assert not cost.estimated
    assert len(costs) == calls.count("model_end")
    # Each but the last one called a tool.
    assert calls.count("model_end") == calls.count("tool_end") + 1
