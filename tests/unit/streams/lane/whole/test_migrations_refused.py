"""A run that is not moved stays as it is, and the answer says why and what to do."""

from __future__ import annotations

import pytest

from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from millstream.middleware.policy import Policy
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult, CostRecorded, Decision
from millstream.schemas.lane_events import RunParked
from millstream.schemas.topics import (
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    PARKED,
    RESULTS,
    RUN_MIGRATIONS,
)
from tests.harness.journalled import Outside, clerk, journal_of
from tests.harness.lane_common import chain_stages
from tests.harness.memory_lanes import (
    MemoryLanes,
    MemoryStage,
    ask,
    give,
    lane_services,
    newest_parked,
    one_lane,
    read_topic,
    read_whole,
    upstream,
)
from tests.harness.migrating import (
    BEHIND_PUT,
    TEXT,
    answers,
    code_of,
    move,
    own,
    paused,
    paused_midway,
    versions,
)
from tests.support import eventually

pytestmark = [pytest.mark.rule(9), pytest.mark.promise("P1")]


async def test_a_dry_run_says_what_would_become_of_it_and_changes_nothing(
    world: MemoryLanes,
) -> None:
    outside = Outside(timeout_s=5)
    fits, other = clerk(version="2"), clerk(version="3", tools=("look",))
    async with paused_midway(world, outside, TEXT, fits, other, gap=BEHIND_PUT) as run:
        before = newest_parked(world), await journal_of(world)
        would, would_not = [await run.move(to, dry_run=True) for to in ("2", "3")]
        assert (newest_parked(world), await journal_of(world)) == before
    assert (would.moved, would.dry_run, would.refused) == (True, True, None)
    assert (would_not.moved, code_of(would_not)) == (False, "journal_unfit")


async def test_a_run_that_called_a_tool_that_the_version_lacks_stays_as_it_is(
    world: MemoryLanes,
) -> None:
    outside = Outside(timeout_s=5)
    second = clerk(version="2", tools=("look", "pay"))
    async with paused_midway(world, outside, TEXT, second, gap=BEHIND_PUT) as run:
        answer = await run.move()
        parked = newest_parked(world)
    assert answer.refused is not None
    assert (answer.moved, answer.refused.code) == (False, "journal_unfit")
    assert answer.refused.message.startswith("it has called put, which version '2' does not have")
    assert parked.template_version == "1"


async def test_a_run_that_is_running_has_to_be_paused_first(world: MemoryLanes) -> None:
    async with (
        upstream(world) as program,
        lane_services(
            world, templates=(*versions("2"), own("1", models=("scripted:hang",)))
        ) as its,
        one_lane(world, its, None) as owner,
    ):
        owner.serve(*await ask(program, "", template="own"))
        await read_topic(world, DECISIONS, Decision, count=1)
        owner.serve(*await move(world, program, "2"))
        (answer,) = await answers(world)
    assert answer.refused is not None
    assert answer.refused.code == "run_under_way"
    assert "pause it" in answer.refused.message


async def test_a_run_that_has_ended_or_never_came_is_not_moved(world: MemoryLanes) -> None:
    async with (
        upstream(world) as program,
        lane_services(world, templates=versions("1", "2")) as services,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await ask(program, "", template="own"))
        await read_topic(world, RESULTS, AgentResult, count=1)
        owner.serve(*await move(world, program, "1"))
        owner.serve(*await move(world, program, "1", "r9"))
        told = {one.request_id: code_of(one) for one in await answers(world, 2)}
    assert told == {"r1": "run_ended", "r9": "run_unknown"}


async def test_a_version_that_it_is_at_or_was_not_at_moves_nothing(world: MemoryLanes) -> None:
    async with (
        upstream(world) as program,
        lane_services(world, templates=versions("1")) as services,
        one_lane(world, services, None) as owner,
    ):
        await paused(world, program, owner, "", template="own")
        services.factory.register(own("2"))
        owner.serve(*await move(world, program, "1"))
        owner.serve(*await move(world, program, "2", from_version="0"))
        owner.serve(*await move(world, program, "2", from_version="1"))
        told = [code_of(one) for one in await answers(world, 3)]
    assert told == ["version_same", "version_other", None]


async def test_a_version_that_no_worker_has_is_waited_for_and_then_refused_with_what_there_is(
    world: MemoryLanes,
) -> None:
    world = world.changed(template_unknown_wait_s=0.05)
    async with (
        upstream(world) as program,
        lane_services(world, templates=versions("1")) as services,
        one_lane(world, services, None) as owner,
    ):
        await paused(world, program, owner, "", template="own")
        owner.serve(*await move(world, program, "2"))
        (answer,) = await answers(world)
    assert answer.refused is not None
    assert answer.refused.code == "version_unknown"
    assert "no template 'own', version '2', and none came; it has '1'" in answer.refused.message


async def test_a_version_that_asks_for_what_its_user_may_not_do_is_refused(
    world: MemoryLanes,
) -> None:
    policy = Policy.from_yaml("roles: {all: {templates: ['*']}}\ndefaults: {roles: [all]}", "test")
    async with (
        upstream(world) as program,
        lane_services(world, templates=versions("1")) as services,
        one_lane(world, services, policy) as owner,
    ):
        await paused(world, program, owner, "", template="own")
        services.factory.register(own("2", permissions=("refunds",)))
        owner.serve(*await move(world, program, "2"))
        (answer,) = await answers(world)
    assert answer.refused is not None
    assert answer.refused.code == "forbidden"
    assert "refunds" in answer.refused.message


@pytest.mark.promise("P5")
async def test_a_run_whose_new_version_may_cost_more_than_its_cap_allows_ends_before_it_spends(
    world: MemoryLanes,
) -> None:
    policy = Policy.from_yaml(
        "prices: {'scripted:*': {input_usd_per_mtok: 1, output_usd_per_mtok: 1}, "
        "scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}\n"
        "defaults: {spend: {usd_per_day: 0.1}}",
        "test",
    )
    small, large = (
        own(version, models=("scripted",), output_tokens_max=tokens)
        for version, tokens in (("1", 100), ("2", 131_072))
    )
    async with (
        upstream(world) as program,
        lane_services(world, templates=(*BUILT_IN_TEMPLATES, large, small)) as services,
        one_lane(world, services, policy) as owner,
    ):
        await paused(world, program, owner, "say: x", template="own")
        owner.serve(*await move(world, program, "2"))
        (answer,) = await answers(world)
        owner.serve(*await give(world, program, "resume", request_id="r1"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert answer.moved
    assert result.reason is not None
    assert result.reason.code == "budget_exceeded"
    assert await read_whole(world, COSTS, CostRecorded) == []


async def test_a_request_that_waits_for_any_version_of_its_template_has_none_to_be_moved_from(
    world: MemoryLanes,
) -> None:
    world = world.changed(template_unknown_wait_s=300)
    async with (
        upstream(world) as program,
        lane_services(world) as services,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await ask(program, "", template="own"))
        await read_topic(world, PARKED, RunParked, count=1)
        owner.serve(*await move(world, program, "2"))
        (answer,) = await answers(world)
    assert code_of(answer) == "version_other"


async def test_a_command_that_says_too_little_is_a_dead_letter_and_others_are_carried_out(
    world: MemoryLanes,
) -> None:
    async with (
        upstream(world) as program,
        lane_services(world, templates=versions("2", "1")) as services,
        one_lane(world, services, None) as owner,
    ):
        await paused(world, program, owner, "", template="own")
        value = {"user_id": "ada", "request_id": "r1"}
        topic = world.topic(RUN_MIGRATIONS)
        owner.serve(await program.publish(value, key=b"ada", topic=topic), value)
        owner.serve(*await move(world, program, "2"))
        (letter,) = await read_topic(world, DEAD_LETTERS, DeadLetter, count=1)
        (answer,) = await answers(world)
    assert letter.reason.code == "wrong_shape"
    assert "to_version" in letter.reason.message
    assert answer.moved


@pytest.mark.promise("P5")
async def test_in_a_cut_chain_a_moved_run_has_no_more_than_was_reserved_for_its_first_version(
    world: MemoryLanes,
) -> None:
    policy = Policy.from_yaml(
        "prices: {scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}\n"
        "defaults: {spend: {usd_per_day: 1}}",
        "test",
    )
    world = world.changed(chain_cuts=("executor",), template_wait_s=300)
    first, second = chain_stages(world.settings, policy)
    small, large = (
        own(version, models=("scripted",), output_tokens_max=tokens)
        for version, tokens in (("1", 100), ("2", 131_072))
    )
    has_both = lane_services(world, templates=(*BUILT_IN_TEMPLATES, large, small))
    has_large = lane_services(world, templates=(*BUILT_IN_TEMPLATES, large))
    async with has_both as before, has_large as behind, upstream(world) as program:
        lanes = [MemoryStage(world, before, first), MemoryStage(world, behind, second)]
        try:
            await ask(program, "say: x", template="own")
            await eventually(lambda: lanes[1].figures().waiting == 1)
            await move(world, program, "2")
            (answer,) = await answers(world)
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
        finally:
            for one in lanes:
                await one.stop()
    assert answer.moved
    assert (result.reason and result.reason.code) == "budget_exceeded"
    assert await read_whole(world, COSTS, CostRecorded) == []
