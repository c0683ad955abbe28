"""A request with an image, through a whole lane."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.middleware.policy import Policy
from millstream.schemas.events import AgentResult, CheckpointSaved, CostRecorded
from millstream.schemas.lane_events import RunParked
from millstream.schemas.topics import CHECKPOINTS, COSTS, PARKED, RESULTS
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    running_lanes,
    upstream,
)

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20_000)).decode()
IMAGE: dict[str, Any] = {"type": "image", "base64": PNG, "mime_type": "image/png"}

PRICED = Policy.from_yaml(
    "prices: {local: {input_usd_per_mtok: 1, output_usd_per_mtok: 1},"
    " scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}\n"
    "defaults: {spend: {usd_per_day: 1}}",
    "test",
)


async def answered(
    world: MemoryLanes, *models: str, **fields: Any
) -> tuple[AgentResult, list[CostRecorded]]:
    template = AgentTemplate(name="looks", models=models)
    async with (
        lane_services(world, templates=(*BUILT_IN_TEMPLATES, template)) as services,
        upstream(world) as program,
        one_lane(world, services, PRICED) as owner,
    ):
        owner.serve(
            *await ask(
                program, "say: seen", template="looks", content=[IMAGE], session_id="s", **fields
            )
        )
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    return result, await read_whole(world, COSTS, CostRecorded)


@pytest.mark.promise("P5")
async def test_a_model_that_takes_no_images_is_passed_over_and_charged_nothing(
    world: MemoryLanes,
) -> None:
    result, costs = await answered(world, "local", "scripted")
    assert (result.status, result.output) == ("completed", "seen")
    assert [(cost.model, cost.cost_micros > 0) for cost in costs] == [
        ("local", False),
        ("scripted", True),
    ]
    (saved,) = await read_whole(world, CHECKPOINTS, CheckpointSaved)
    assert len(saved.data) > len(PNG)


@pytest.mark.promise("P5")
async def test_a_request_whose_models_take_no_images_ends_by_name_and_costs_nothing(
    world: MemoryLanes,
) -> None:
    result, costs = await answered(world, "local")
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "content_unsupported")
    assert "the model 'local' takes no images" in result.reason.message
    assert (result.cost_micros, sum(cost.cost_micros for cost in costs)) == (0, 0)


@pytest.mark.rule(9)
async def test_an_image_is_still_there_once_a_run_was_parked(world: MemoryLanes) -> None:
    world = world.changed(park_after_s=0.01)
    async with lane_services(world) as services, upstream(world) as program:
        async with one_lane(world, services, None) as owner:
            owner.serve(
                *await ask(program, "slow: 0.2; say: seen", content=[IMAGE], session_id="s")
            )
            (parked,) = await read_topic(world, PARKED, RunParked, count=1)
        async with one_lane(world, services, None):
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.output) == ("completed", "seen")
    assert parked.request.content is not None
    assert parked.request.content[0].label == "[image/png, 20 kB]"
    (saved,) = await read_whole(world, CHECKPOINTS, CheckpointSaved)
    assert len(saved.data) > len(PNG)


async def test_an_image_goes_through_all_stages_of_a_cut_chain(world: MemoryLanes) -> None:
    world = world.changed(chain_cuts=("executor",))
    async with running_lanes(world, PRICED), upstream(world) as program:
        await ask(program, "say: seen", content=[IMAGE], session_id="s", model="scripted")
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.output) == ("completed", "seen")
    (saved,) = await read_whole(world, CHECKPOINTS, CheckpointSaved)
    assert len(saved.data) > len(PNG)
