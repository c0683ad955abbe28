"""Commands that move a run, beside whatever else becomes of it: each is decided once."""

from __future__ import annotations

import pytest

from millstream.agents.templates.template import BUILT_IN_TEMPLATES
from millstream.schemas.control.migrations import RunMigrationAnswered
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import (
    CONTROL,
    RESULTS,
    RUN_MIGRATION_ANSWERS,
    RUN_MIGRATIONS,
)
from tests.harness.journalled import Hold, Outside, clerk
from tests.harness.memory_lanes import (
    MemoryLanes,
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
