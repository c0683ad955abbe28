"""A run that waits goes on with another version of its template, where what it did so far fits."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from langchain_core.messages import AIMessage

from millstream.agents.executor import wall_clock_ms
from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from millstream.schemas.control.migrations import RunMigrationAnswered
from millstream.schemas.errors import ModelFailed
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import CommandObeyed, HoldPlaced, RunParked
from millstream.schemas.topics import (
    HOLDS,
    OBEYED,
    PARKED,
    RESULTS,
    RUN_MIGRATION_ANSWERS,
)
from tests.fakes.odd_models import OddModel
from tests.harness.journalled import Hold, Outside, clerk, journal_of
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
    running_lanes,
    upstream,
)
from tests.harness.migrating import (
    BEHIND_PUT,
    TEXT,
    answers,
    move,
    own,
    paused,
    paused_midway,
    versions,
)
from tests.support import eventually

pytestmark = [pytest.mark.rule(9), pytest.mark.promise("P1")]


async def test_a_paused_run_without_a_journal_goes_on_with_the_version_it_was_moved_to(
    world: MemoryLanes,
) -> None:
    async with (
        upstream(world) as program,
        lane_services(world, templates=versions("1")) as services,
        one_lane(world, services, None) as owner,
    ):
        await paused(world, program, owner, "", template="own")
        services.factory.register(own("2"))
        owner.serve(*await move(world, program, "2"))
        (answer,) = await answers(world)
        parked = newest_parked(world)
        owner.serve(*await give(world, program, "resume", request_id="r1"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (answer.moved, answer.from_version, answer.to_version) == (True, "1", "2")
    assert (answer.template, answer.refused) == ("own", None)
    assert (parked.template_version, parked.decision.template_version) == ("2", "1")
    assert (result.status, result.template_version, result.output) == ("completed", "2", "2")
    assert await journal_of(world) == []


async def test_a_run_that_waits_for_a_version_that_is_gone_goes_on_once_it_is_moved(
    world: MemoryLanes,
) -> None:
    async with upstream(world) as program:
        first = lane_services(world, templates=versions("1"))
        async with first as services, one_lane(world, services, None) as owner:
            await paused(world, program, owner, "", template="own")
        later = lane_services(world, templates=versions("2"))
        async with later as services, one_lane(world, services, None) as owner:
            owner.serve(*await give(world, program, "resume", request_id="r1"))
            await eventually(lambda: bool(owner.lane.lacking))
            owner.serve(*await move(world, program, "2"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
            await eventually(lambda: not owner.lane.lacking)
    assert (result.status, result.template_version) == ("completed", "2")


@pytest.mark.promise("P2")
@pytest.mark.parametrize("owners", [1, 2])
async def test_what_a_moved_run_did_counts_though_its_new_version_asks_otherwise(
    world: MemoryLanes, owners: int
) -> None:
    outside = Outside(timeout_s=5)
    second = clerk(version="2", system_prompt="Be kind.")
    async with paused_midway(world, outside, TEXT, second, gap=BEHIND_PUT) as run:
        answer = await run.move()
        if owners == 1:
            await run.resume()
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    if owners == 2:
        async with (
            upstream(world) as program,
            lane_services(world, outside, [second], tools=outside.tools()) as services,
            one_lane(world, services, None) as owner,
        ):
            owner.serve(*await give(world, program, "resume", request_id="r1"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert answer.moved
    assert (result.status, result.output, result.template_version) == ("completed", "done", "2")
    assert sorted(name for name, _ in outside.begun) == ["look 2", "pay 3", "put 1"]
    assert len(outside.models) == 3
    steps = await journal_of(world)
    assert [one.step for one in steps] == list(range(len(steps)))
    (moved,) = (one for one in steps if one.kind == "moved")
    assert moved.began is not None
    assert (moved.began.moved_from, moved.began.template_version) == ("1", "2")
    assert set(moved.began.tools) == {"look", "put", "pay", "mail"}


@pytest.mark.promise("P2")
async def test_what_is_answered_behind_a_move_is_compared_again(world: MemoryLanes) -> None:
    outside = Outside(timeout_s=5)
    second = clerk(version="2", system_prompt="Be kind.")
    async with paused_midway(world, outside, TEXT, second, gap=Hold("asked", 0)) as run:
        await run.move()
        outside.begin_worker(Hold("ended", 1))
        await run.resume()
        await asyncio.wait_for(outside.is_held.wait(), 10)
    outside.begin_worker(None)
    changed = clerk(version="2", system_prompt="Be quick.")  # under the same version
    async with (
        lane_services(world, outside, [changed], tools=outside.tools()) as services,
        one_lane(world, services, None),
    ):
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("failed", "journal_mismatch")
    assert "model call 2" in result.reason.message


@pytest.mark.promise("P2")
async def test_a_run_is_moved_twice_and_back(world: MemoryLanes) -> None:
    outside = Outside(timeout_s=5)
    later = [clerk(version=name, system_prompt=f"{name}.") for name in ("1", "2", "3")]
    async with paused_midway(world, outside, TEXT, *later, gap=BEHIND_PUT) as run:
        told = [await run.move(to) for to in ("2", "3", "1")]
        await run.resume()
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert [(one.from_version, one.to_version) for one in told] == [
        ("1", "2"),
        ("2", "3"),
        ("3", "1"),
    ]
    assert (result.status, result.output, result.template_version) == ("completed", "done", "1")
    assert len(outside.models) == 3


@pytest.mark.promise("P2")
async def test_a_call_that_was_begun_and_has_no_answer_is_settled_in_the_new_version(
    world: MemoryLanes,
) -> None:
    """It is asked about under the key that it had; nothing is done twice."""
    outside = Outside(timeout_s=5)
    second = clerk(version="2", system_prompt="Be kind.")
    async with upstream(world) as program:
        outside.begin_worker(Hold("happened", 0))
        async with (
            lane_services(world, outside, [clerk(version="1")], tools=outside.tools()) as services,
            one_lane(world, services, None) as owner,
        ):
            asked = await ask(program, 'call: put {"n": 1}; say: done', template="clerk")
            owner.serve(*asked)
            await asyncio.wait_for(outside.is_held.wait(), 10)
        outside.begin_worker(None)
        async with (
            lane_services(world, outside, [second], tools=outside.tools()) as services,
            one_lane(world, services, None) as owner,
        ):
            owner.serve(*asked)
            await eventually(lambda: bool(owner.lane.lacking))
            owner.serve(*await move(world, program, "2"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.output, result.template_version) == ("completed", "done", "2")
    assert [name for name, _ in outside.begun] == ["put 1", "put 1"]
    assert len({key for _, key in outside.begun}) == 1
    assert len(outside.models) == 2


async def test_where_the_chain_is_cut_the_stage_of_runs_moves_them(world: MemoryLanes) -> None:
    world = world.changed(chain_cuts=("executor",), template_wait_s=300)
    first, second = chain_stages(world.settings)
    has_both = lane_services(world, templates=versions("2", "1"))
    has_second = lane_services(world, templates=versions("2"))
    async with has_both as before, has_second as behind, upstream(world) as program:
        lanes = [MemoryStage(world, before, first), MemoryStage(world, behind, second)]
        try:
            await ask(program, "", template="own")
            # Decided on for version 1 by the first stage, and lacking in the second.
            await eventually(lambda: lanes[1].figures().waiting == 1)
            await move(world, program, "2")
            (answer,) = await answers(world)
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
        finally:
            for one in lanes:
                await one.stop()
    assert (answer.moved, answer.from_version) == (True, "1")
    assert (result.status, result.template_version) == ("completed", "2")


async def test_a_moved_run_waits_on_until_its_next_attempt_is_due(world: MemoryLanes) -> None:
    retry = RetryPolicy(backoff_first_s=60, backoff_max_s=60, jitter=0)
    fails = own("1", retry=retry)
    model = OddModel(says=[ModelFailed("overloaded"), AIMessage("2")])
    has_one = (*BUILT_IN_TEMPLATES, fails)
    async with (
        upstream(world) as program,
        lane_services(world, templates=has_one, resolve=lambda *_, **__: model) as services,
    ):
        async with one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, "", template="own"))
            await eventually(lambda: owner.lane.waiting == 1)
            services.factory.register(own("2"))
            owner.serve(*await move(world, program, "2"))
            (answer,) = await answers(world)
            parked = newest_parked(world)
            assert owner.lane.waiting == 1
        later = replace(services, clock_ms=lambda: wall_clock_ms() + 61_000)
        async with one_lane(world, later, None):
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert answer.moved
    assert (parked.failures, parked.not_before_ms > wall_clock_ms()) == (1, True)
    assert (result.status, result.template_version) == ("completed", "2")


async def test_a_run_whose_journal_is_older_than_what_a_lane_reads_back_is_moved_with_it(
    world: MemoryLanes,
) -> None:
    world = world.changed(park_after_s=0.01, partitions=1)
    outside = Outside(timeout_s=5)
    ahead_ms = 2 * 86_400_000
    second = clerk(version="2", system_prompt="Be kind.")
    async with paused_midway(world, outside, TEXT, second, gap=BEHIND_PUT):
        before = await journal_of(world)
    async with (
        upstream(world) as program,
        lane_services(world, outside, [*BUILT_IN_TEMPLATES, second], tools=outside.tools()) as its,
    ):
        services = replace(its, clock_ms=lambda: wall_clock_ms() + ahead_ms)
        async with one_lane(world, services, None) as owner:
            sent, value = await ask(program, "say: x", user_id="bob", request_id="b1")
            owner.serve(sent._replace(timestamp=sent.timestamp + ahead_ms), value)
            await read_topic(world, RESULTS, AgentResult, count=1)
        async with one_lane(world, services, None) as owner:
            assert owner.lane._state.journals.open == {}
            owner.serve(*await move(world, program, "2"))
            (answer,) = await answers(world)
            parked = newest_parked(world)
        async with one_lane(world, services, None) as owner:
            owner.serve(*await give(world, program, "resume", request_id="r1"))
            *_, result = await read_topic(world, RESULTS, AgentResult, count=2)
    assert answer.moved
    assert (parked.journal_from, parked.journal_steps) == (0, len(before) + 1)
    assert (result.status, result.output, result.template_version) == ("completed", "done", "2")
    assert [one.step for one in await journal_of(world)][: len(before) + 1] == list(
        range(len(before) + 1)
    )


@pytest.mark.promise("P2")
async def test_a_run_is_moved_by_the_worker_that_has_begun_it(world: MemoryLanes) -> None:
    outside = Outside(timeout_s=5)
    outside.begin_worker(BEHIND_PUT)
    async with (
        upstream(world) as program,
        lane_services(world, outside, [clerk(version="1")], tools=outside.tools()) as services,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await ask(program, TEXT, template="clerk"))
        await asyncio.wait_for(outside.is_held.wait(), 10)
        owner.serve(*await give(world, program, "pause", request_id="r1"))
        await read_topic(world, HOLDS, HoldPlaced, count=1)
        outside.goes_on.set()
        await eventually(lambda: owner.lane.waiting == 1)
        services.factory.register(clerk(version="2", system_prompt="Be kind."))
        owner.serve(*await move(world, program, "2"))
        (answer,) = await answers(world)
        owner.serve(*await give(world, program, "resume", request_id="r1"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert answer.moved
    assert (result.status, result.output, result.template_version) == ("completed", "done", "2")
    assert sorted(name for name, _ in outside.begun) == ["look 2", "pay 3", "put 1"]
    assert len(outside.models) == 3


async def test_a_moved_run_waits_for_its_old_version_no_more_though_it_is_paused(
    world: MemoryLanes,
) -> None:
    async with upstream(world) as program:
        first = lane_services(world, templates=versions("1"))
        async with first as services, one_lane(world, services, None) as owner:
            await paused(world, program, owner, "", template="own")
        later = lane_services(world, templates=versions("2"))
        async with later as services, one_lane(world, services, None) as owner:
            owner.serve(*await give(world, program, "resume", request_id="r1"))
            await eventually(lambda: bool(owner.lane.lacking))
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            await read_topic(world, OBEYED, CommandObeyed, count=3)
            owner.serve(*await move(world, program, "2"))
            (answer,) = await answers(world)
            assert (owner.lane.lacking, owner.lane.waiting) == ({}, 1)
            services.factory.retire("own", "2")
            owner.serve(*await give(world, program, "resume", request_id="r1"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert answer.moved
    assert (result.status, result.template_version) == ("completed", "2")


async def test_a_move_is_known_from_a_snapshot_and_its_command_when_it_comes_again(
    world: MemoryLanes,
) -> None:
    async with upstream(world) as program:
        async with running_lanes(world, templates=versions("1")):
            await give(world, program, "pause", request_id="r1")
            await read_topic(world, HOLDS, HoldPlaced, count=1)
            await ask(program, "", template="own")
            await read_topic(world, PARKED, RunParked, count=1)
        async with running_lanes(world, templates=versions("2")):  # each leaves a snapshot
            await move(world, program, "2")
            (answer,) = await answers(world)
        world.acked.clear()  # all is read again
        async with running_lanes(world, templates=versions("2")):
            await give(world, program, "resume", request_id="r1")
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert answer.moved
    assert (result.status, result.template_version) == ("completed", "2")
    assert len(await read_whole(world, RUN_MIGRATION_ANSWERS, RunMigrationAnswered)) == 1
