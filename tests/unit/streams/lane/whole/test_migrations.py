"""A run that waits goes on with another version of its template, where what it did so far fits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from millstream.agents.executor import wall_clock_ms
from millstream.agents.templates.retry import RetryPolicy
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.middleware.policy import Policy
from millstream.schemas.control.migrations import RunMigrationAnswered
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.errors import ModelFailed
from millstream.schemas.events import AgentResult, CostRecorded, Decision
from millstream.schemas.lane_events import CommandObeyed, HoldPlaced, RunParked
from millstream.schemas.topics import (
    CONTROL,
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    HOLDS,
    OBEYED,
    PARKED,
    RESULTS,
    RUN_MIGRATION_ANSWERS,
    RUN_MIGRATIONS,
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
    one_lane,
    read_topic,
    read_whole,
    upstream,
)
from tests.harness.migrating import answers, code_of, move, newest_parked, paused, paused_midway
from tests.support import eventually

pytestmark = [pytest.mark.rule(9), pytest.mark.promise("P1")]

TEXT = 'call: put {"n": 1}; call: look {"n": 2} + pay {"n": 3}; say: done'
BEHIND_PUT = Hold("asked", 1)


def own(version: str, **fields: Any) -> AgentTemplate:
    given = {"name": "own", "version": version, "models": (f"scripted:say: {version}",), **fields}
    return AgentTemplate.model_validate(given)


def versions(*names: str) -> tuple[AgentTemplate, ...]:
    return (*BUILT_IN_TEMPLATES, *map(own, names))


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


async def test_a_command_for_a_version_that_comes_later_is_carried_out_then(
    world: MemoryLanes,
) -> None:
    async with (
        upstream(world) as program,
        lane_services(world, templates=versions("1")) as services,
        one_lane(world, services, None) as owner,
    ):
        await paused(world, program, owner, "", template="own")
        owner.serve(*await move(world, program, "2"))
        await eventually(lambda: bool(owner.lane.lacking))
        (wanted,) = owner.lane.lacking  # the group is told, and may move the partition
        assert (wanted.name, wanted.version) == ("own", "2")
        services.factory.register(own("2"))
        (answer,) = await answers(world)
        await eventually(lambda: not owner.lane.lacking)
    assert answer.moved


async def test_a_command_that_waits_for_its_version_is_carried_out_by_the_next_owner(
    world: MemoryLanes,
) -> None:
    async with upstream(world) as program:
        first = lane_services(world, templates=versions("1"))
        async with first as services, one_lane(world, services, None) as owner:
            await paused(world, program, owner, "", template="own")
            given = await move(world, program, "2")
            owner.serve(*given)
            await eventually(lambda: bool(owner.lane.lacking))
            assert owner.acked_of[world.topic(RUN_MIGRATIONS)] == 0
        later = lane_services(world, templates=versions("2"))
        async with later as services, one_lane(world, services, None) as owner:
            owner.serve(*given)  # nobody has acknowledged it
            (answer,) = await answers(world)
    assert answer.moved


async def test_a_command_that_was_carried_out_moves_nothing_when_it_comes_again(
    world: MemoryLanes,
) -> None:
    async with upstream(world) as program:
        own_both = versions("1", "2")
        first = lane_services(world, templates=own_both)
        async with first as services, one_lane(world, services, None) as owner:
            await paused(world, program, owner, "", template="own")
            there, back = await move(world, program, "1"), await move(world, program, "2")
            owner.serve(*there)
            owner.serve(*back)
            await answers(world, 2)
        later = lane_services(world, templates=own_both)
        async with later as services, one_lane(world, services, None) as owner:
            owner.serve(*there)
            owner.serve(*back)
            await eventually(lambda: owner.acked_of[world.topic(RUN_MIGRATIONS)] == 2)
    told = await read_whole(world, RUN_MIGRATION_ANSWERS, RunMigrationAnswered)
    assert [one.to_version for one in told] == ["1", "2"]


async def test_of_two_commands_at_once_the_second_finds_what_the_first_made(
    world: MemoryLanes,
) -> None:
    async with (
        upstream(world) as program,
        lane_services(world, templates=versions("2", "3", "1")) as services,
        one_lane(world, services, None) as owner,
    ):
        await paused(world, program, owner, "", template="own")
        given = [await move(world, program, to) for to in ("2", "3", "3")]
        for one in given:
            owner.serve(*one)
        told = await answers(world, 3)
        owner.serve(*await give(world, program, "resume", request_id="r1"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert [(one.from_version, code_of(one)) for one in told] == [
        ("1", None),
        ("2", None),
        ("3", "version_same"),
    ]
    assert result.template_version == "3"


@pytest.mark.parametrize("comes", ["first", "second", "as it runs"])
async def test_a_run_that_is_resumed_meanwhile_is_moved_or_runs_and_its_answer_says_which(
    world: MemoryLanes, comes: str
) -> None:
    async with (
        upstream(world) as program,
        lane_services(world, templates=versions("2", "1")) as services,
        one_lane(world, services, None) as owner,
    ):
        await paused(world, program, owner, "", template="own")
        resume = await give(world, program, "resume", request_id="r1")
        given = await move(world, program, "2")
        for one in (given, resume) if comes == "first" else (resume, given):
            owner.serve(*one)
            if comes == "as it runs":
                await eventually(lambda: owner.lane.waiting == 0)
        (answer,) = await answers(world)
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.status == "completed"
    assert result.template_version == ("2" if answer.moved else "1")
    assert code_of(answer) in {None, "run_under_way", "run_ended"}
    assert len(await read_whole(world, RESULTS, AgentResult)) == 1


async def test_a_moved_run_keeps_its_place_in_its_session(world: MemoryLanes) -> None:
    async with (
        upstream(world) as program,
        lane_services(world, templates=versions("2", "1")) as services,
        one_lane(world, services, None) as owner,
    ):
        await paused(world, program, owner, "", template="own", session_id="s")
        for name in ("r2", "r3"):
            more = {"request_id": name, "session_id": "s"}
            owner.serve(*await ask(program, "", template="own", **more))
        await eventually(lambda: owner.lane.waiting == 3)
        owner.serve(*await move(world, program, "2", "r2"))
        owner.serve(*await move(world, program, "2", "r1"))
        assert all(one.moved for one in await answers(world, 2))
        owner.serve(*await give(world, program, "resume", request_id="r1"))
        results = await read_topic(world, RESULTS, AgentResult, count=3)
    assert [(one.request_id, one.template_version) for one in results] == [
        ("r1", "2"),
        ("r2", "2"),
        ("r3", "1"),
    ]


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


async def test_a_run_that_begins_while_its_move_waits_for_the_version_is_not_moved(
    world: MemoryLanes,
) -> None:
    hangs = own("1", models=("scripted:hang",))
    async with (
        upstream(world) as program,
        lane_services(world, templates=(*BUILT_IN_TEMPLATES, hangs)) as services,
        one_lane(world, services, None) as owner,
    ):
        await paused(world, program, owner, "", template="own")
        owner.serve(*await move(world, program, "2"))
        await eventually(lambda: bool(owner.lane.lacking))
        owner.serve(*await give(world, program, "resume", request_id="r1"))
        await eventually(lambda: owner.lane.waiting == 0)
        services.factory.register(own("2"))
        (answer,) = await answers(world)
        parked = newest_parked(world)
    assert code_of(answer) == "run_under_way"
    assert parked.template_version == "1"


async def test_a_run_that_is_called_up_by_the_record_before_its_move_begins_by_the_new_one(
    world: MemoryLanes,
) -> None:
    outside = Outside(timeout_s=5)
    text = 'call: put {"n": 1}; say: done'
    async with paused_midway(world, outside, text, clerk(version="2"), gap=Hold("asked", 0)) as run:
        # Both read the log: the command first, and whoever calls the run up before it is moved.
        async with run.owner.lane._reader.lock:
            run.owner.serve(*await move(world, run.program, "2"))
            await run.resume()
            await eventually(lambda: run.owner.acked_of[world.topic(CONTROL)] == 1)
        (answer,) = await answers(world)
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert answer.moved
    assert (result.status, result.template_version, result.output) == ("completed", "2", "done")


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
