"""The version of its template that a run began with: it goes on with that one or not at all."""

from __future__ import annotations

import pytest

from millstream.agents.executor import wall_clock_ms
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.events import AgentResult, Decision
from millstream.schemas.lane_events import HoldPlaced, RunParked
from millstream.schemas.topics import DECISIONS, HOLDS, PARKED, RESULTS
from tests.harness.lane_common import chain_stages
from tests.harness.memory_lanes import (
    MemoryLanes,
    MemoryStage,
    ask,
    give,
    lane_services,
    one_lane,
    read_topic,
    upstream,
)
from tests.harness.missing_templates import NEW, WITH_NEW, patient
from tests.support import eventually

pytestmark = [pytest.mark.rule(9), pytest.mark.promise("P1")]


async def test_a_parked_run_keeps_its_version_whatever_is_newest(world: MemoryLanes) -> None:
    first, second = (
        AgentTemplate(name="own", version=version, models=(f"scripted:say: {version}",))
        for version in ("1", "2")
    )
    async with upstream(world) as program:
        one = lane_services(world, templates=(*BUILT_IN_TEMPLATES, first))
        async with one as services, one_lane(world, services, None) as owner:
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            await read_topic(world, HOLDS, HoldPlaced, count=1)
            owner.serve(*await ask(program, "", template="own"))
            (parked,) = await read_topic(world, PARKED, RunParked, count=1)
            services.factory.register(second)  # while it is paused
            services.factory.retire("own", "1")
        both = lane_services(world, templates=(*BUILT_IN_TEMPLATES, first, second))
        async with both as services, one_lane(world, services, None) as owner:
            owner.serve(*await give(world, program, "resume", request_id="r1"))
            owner.serve(*await ask(program, "", template="own", request_id="r2"))
            results = await read_topic(world, RESULTS, AgentResult, count=2)
    assert (parked.template_version, parked.decision.template_version) == ("1", "1")
    versions = {one.request_id: (one.template_version, one.output) for one in results}
    assert versions == {"r1": ("1", "1"), "r2": ("2", "2")}


async def test_a_run_whose_version_its_new_owner_lacks_waits_and_never_goes_on_with_another(
    world: MemoryLanes,
) -> None:
    first, second = (AgentTemplate(name="own", version=version) for version in ("1", "2"))
    async with upstream(world) as program:
        one = lane_services(world, templates=(*BUILT_IN_TEMPLATES, first))
        async with one as services, one_lane(world, services, None) as owner:
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            await read_topic(world, HOLDS, HoldPlaced, count=1)
            owner.serve(*await ask(program, "say: x", template="own"))
            await read_topic(world, PARKED, RunParked, count=1)
        later = lane_services(world, templates=(*BUILT_IN_TEMPLATES, second))
        async with later as services, one_lane(world, services, None) as owner:
            owner.serve(*await give(world, program, "resume", request_id="r1"))
            owner.serve(*await ask(program, "say: x", template="own", request_id="r2"))
            await read_topic(world, RESULTS, AgentResult, count=1)
            assert owner.lane.waiting == 1
            services.factory.register(first)
            results = await read_topic(world, RESULTS, AgentResult, count=2)
    assert [(one.request_id, one.template_version) for one in results] == [
        ("r2", "2"),
        ("r1", "1"),
    ]


async def test_a_run_whose_version_never_comes_waits_until_it_is_cancelled(
    world: MemoryLanes,
) -> None:
    first, second = (AgentTemplate(name="own", version=version) for version in ("1", "2"))
    async with upstream(world) as program:
        one = lane_services(world, templates=(*BUILT_IN_TEMPLATES, first))
        async with one as services, one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, "hang", template="own"))
            await read_topic(world, DECISIONS, Decision, count=1)
        short = world.changed(template_wait_s=0.05)
        later = lane_services(short, templates=(*BUILT_IN_TEMPLATES, second))
        async with later as services, one_lane(short, services, None) as owner:
            owner.serve(*await ask(program, "hang", template="own"))  # it comes again
            # Behind it, so that its own wait would long be over.
            owner.serve(*await ask(program, "say: x", template="nope", request_id="r2"))
            (refused,) = await read_topic(world, RESULTS, AgentResult, count=1)
            assert owner.lane.waiting == 1
            (wanted,) = owner.lane.lacking
            owner.serve(*await give(world, program, "cancel", request_id="r1"))
            _, result = await read_topic(world, RESULTS, AgentResult, count=2)
    assert (refused.request_id, refused.reason and refused.reason.code) == (
        "r2",
        "unknown_template",
    )
    assert (wanted.name, wanted.version) == ("own", "1")
    assert (result.request_id, result.status) == ("r1", "cancelled")


async def test_a_run_whose_version_never_comes_expires_at_its_deadline(world: MemoryLanes) -> None:
    first, second = (AgentTemplate(name="own", version=version) for version in ("1", "2"))
    async with upstream(world) as program:
        one = lane_services(world, templates=(*BUILT_IN_TEMPLATES, first))
        async with one as services, one_lane(world, services, None) as owner:
            asked = await ask(program, "hang", template="own", deadline_ms=wall_clock_ms() + 500)
            owner.serve(*asked)
            await read_topic(world, DECISIONS, Decision, count=1)
        later = lane_services(world, templates=(*BUILT_IN_TEMPLATES, second))
        async with later as services, one_lane(world, services, None) as owner:
            owner.serve(*asked)
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.status == "expired"
    assert result.reason is not None
    assert "waited for template 'own', version '1'" in result.reason.message


async def test_where_the_chain_is_cut_the_executor_waits_for_the_version_that_was_decided_on(
    world: MemoryLanes,
) -> None:
    world = patient(world, chain_cuts=("executor",))
    newest = AgentTemplate(name="new", version="8")
    first, second = chain_stages(world.settings)
    new, old = lane_services(world, templates=WITH_NEW), lane_services(world)
    async with new as deployed, old as before, upstream(world) as program:
        lanes = [MemoryStage(world, deployed, first), MemoryStage(world, before, second)]
        try:
            value = {"user_id": "ada", "input": "say: x", "template": "new"}
            await program.publish(value, key=b"ada")
            await eventually(lambda: lanes[1].figures().waiting == 1)
            before.factory.register(newest)
            await program.publish({**value, "template": "chat_agent"}, key=b"ada")
            await read_topic(world, RESULTS, AgentResult, count=1)
            assert lanes[1].figures().waiting == 1
            before.factory.register(NEW)
            *_, result = await read_topic(world, RESULTS, AgentResult, count=2)
        finally:
            for one in lanes:
                await one.stop()
    assert (result.status, result.template_version) == ("completed", "7")
