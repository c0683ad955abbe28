"""The runs that are open, each with why, as lanes leave them on the log.

What others could not see: runs of an earlier version that stay pending while every status looks
healthy (czpython/druks#619, decocms/studio#4143, dbos-inc/dbos-transact-golang#479); a run that a
restart left running for ever (inngest/inngest#2531); a filter by a state that gives nothing or
everything (argoproj/argo-workflows#6263, n8n-io/n8n#3241, cadence-workflow/cadence#3593).
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from millstream.agents.executor import wall_clock_ms
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.gateway.commands.runs.telling import run_pairs, shown_facts
from millstream.gateway.console.time_parsing import time_text
from millstream.schemas.base import Reason
from millstream.schemas.events import AgentResult, Decision
from millstream.schemas.lane_events import HoldPlaced, RunParked
from millstream.schemas.topics import ATTEMPTS, DECISIONS, HOLDS, PARKED, RESULTS, TopicSpec
from millstream.streams.bus.api import EVERYTHING, EventFilter
from millstream.streams.bus.memory import MemoryLog
from millstream.streams.history.open_runs import OpenRun, records_of_run, runs_lacking, runs_open
from tests import making
from tests.harness.journalled import Hold, Outside, clerk
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    give,
    lane_services,
    one_lane,
    read_topic,
    upstream,
)
from tests.harness.migrating import paused_midway
from tests.support import eventually
from tests.unit.streams.lane.whole.test_tool_waits import lost_in_its_call, owner_with

FIRST, SECOND = (AgentTemplate(name="own", version=version) for version in ("1", "2"))


@pytest.fixture
def world() -> MemoryLanes:
    return MemoryLanes()


async def open_runs(
    world: MemoryLanes, wanted: EventFilter = EVERYTHING, *, now_ms: int | None = None
) -> dict[str, OpenRun]:
    log = MemoryLog(world.broker)
    found = await runs_open(log, world.settings, wanted, now_ms=now_ms or wall_clock_ms())
    assert not found.unreadable
    return {one.request_id: one for one in found.runs}


def put(world: MemoryLanes, spec: TopicSpec, event: Any, key: bytes) -> None:
    (where, *_) = world.places(spec)
    world.broker.append(where, key, event.model_dump_json().encode(), ())


def parked(request_id: str, **fields: Any) -> RunParked:
    ids: dict[str, Any] = {"user_id": "ada", "request_id": request_id, "session_id": request_id}
    asked = making.resolved(**ids)
    decided = making.decision(**ids, template_version="3")
    made = {"at_ms": 1, "request": asked, "decision": decided, "order": 0}
    return RunParked(**ids, **{**made, **fields})


async def test_runs_whose_version_no_worker_has_any_more_are_told_with_it(
    world: MemoryLanes,
) -> None:
    world = world.changed(partitions=1)
    users = [f"user-{number}" for number in range(20)]
    async with upstream(world) as program:
        old = lane_services(world, templates=(*BUILT_IN_TEMPLATES, FIRST))
        asked = []
        async with old as services, one_lane(world, services, None) as owner:
            for user in users:
                one = await ask(program, "hang", template="own", user_id=user, request_id=user)
                asked.append(one)
                owner.serve(*one)
            await read_topic(world, DECISIONS, Decision, count=20)
        newer = lane_services(world, templates=(*BUILT_IN_TEMPLATES, SECOND))
        async with newer as services, one_lane(world, services, None) as owner:
            for one in asked:
                owner.serve(*one)
            await read_topic(world, PARKED, RunParked, count=20)
        runs = await open_runs(world)  # and no worker is there
        lacking = await runs_lacking(MemoryLog(world.broker), world.settings)
    assert set(runs) == set(users)
    assert {one.state for one in runs.values()} == {"lacking"}
    assert [(one.template, one.version) for one in lacking] == [("own", "1")] * 20
    assert {(one.template, one.template_version) for one in runs.values()} == {("own", "1")}
    why = "waits for a worker that has template 'own', version '1'"
    assert {one.why for one in runs.values()} == {why}
    assert set(await open_runs(world, EventFilter(user_id="user-7"))) == {"user-7"}
    assert await open_runs(world, EventFilter(tenant="other")) == {}


async def test_a_run_that_lacks_a_tool_is_told_with_it_and_its_journal(world: MemoryLanes) -> None:
    async with upstream(world) as program:
        asked = await lost_in_its_call(world, program, "idempotent")
        async with owner_with(world, "absent", "idempotent") as (_, owner, _):
            owner.serve(*asked)
            await eventually(lambda: bool(owner.lane.lacking))
            owner.serve(*await ask(program, "say: x", request_id="r2", session_id="r1"))
            await read_topic(world, PARKED, RunParked, count=2)
            runs = await open_runs(world)
            wanted = EventFilter(user_id="ada", request_id="r1")
            log = MemoryLog(world.broker)
            records = await records_of_run(log, world.settings, wanted, since_ms=None)
    assert (runs["r1"].state, runs["r1"].steps) == ("lacking", 4)
    assert "with mail, of which its journal has an unanswered call" in runs["r1"].why
    assert (runs["r2"].state, runs["r2"].why) == (
        "waiting",
        "waits behind r1 of its session, which is lacking",
    )
    assert list(runs) == ["r1", "r2"]
    assert [one.kind for one in records.steps] == ["answered", "done", "answered", "intent"]
    assert records.decision is not None
    assert records.result is None


async def test_paused_runs_are_told_and_ended_ones_are_not(world: MemoryLanes) -> None:
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        owner.serve(*await give(world, program, "pause", request_id="r1"))
        owner.serve(*await give(world, program, "pause", session_id="s2"))
        await read_topic(world, HOLDS, HoldPlaced, count=2)
        owner.serve(*await ask(program, "say: x", request_id="r1"))
        owner.serve(*await ask(program, "say: x", request_id="r2", session_id="s2"))
        owner.serve(*await ask(program, "say: x", request_id="r3", session_id="s3"))
        await read_topic(world, PARKED, RunParked, count=2)
        await read_topic(world, RESULTS, AgentResult, count=1)
        runs = await open_runs(world)
        owner.serve(*await give(world, program, "resume", request_id="r1"))
        await read_topic(world, RESULTS, AgentResult, count=2)
        later = await open_runs(world)
        of_session = await open_runs(world, EventFilter(user_id="ada", session_id="s3"))
    told = {name: (one.state, one.why) for name, one in runs.items()}
    assert told == {"r1": ("paused", "it is paused"), "r2": ("paused", "its session is paused")}
    assert set(later) == {"r2"}
    assert of_session == {}


async def test_a_run_under_way_is_told_before_it_is_parked_and_behind(world: MemoryLanes) -> None:
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world.changed(park_after_s=3600), services, None) as owner,
    ):
        owner.serve(*await ask(program, "hang"))
        await read_topic(world, DECISIONS, Decision, count=1)
        runs = await open_runs(world)
    assert (runs["r1"].state, runs["r1"].template) == ("running", "chat_agent")


async def test_an_attempt_a_retry_and_a_turn_are_told_apart(world: MemoryLanes) -> None:
    world.create_topics()
    now_ms = wall_clock_ms()
    failure = Reason(code="model_failed", message="overloaded")
    waits = parked("retrying", not_before_ms=now_ms + 60_000, failures=2, failure=failure)
    for one in (waits, parked("running"), parked("waiting")):
        put(world, PARKED, one, one.record_key.encode())
    attempt = making.attempt(request_id="running", session_id="running", attempt=2001)
    put(world, ATTEMPTS, attempt, b"ada")
    runs = await open_runs(world, now_ms=now_ms)
    assert {name: one.state for name, one in runs.items()} == {
        name: name for name in ("retrying", "running", "waiting")
    }
    assert "the last failed, model_failed: overloaded" in runs["retrying"].why
    assert runs["running"].attempt == 2001
    assert {one.template_version for one in runs.values()} == {"3"}
    later = await open_runs(world, now_ms=now_ms + 61_000)
    assert later["retrying"].state == "waiting"


async def test_what_this_version_cannot_read_is_counted_and_the_rest_is_told(
    world: MemoryLanes,
) -> None:
    world.create_topics()
    (where, *_) = world.places(PARKED)
    newer = parked("newer").model_copy(update={"schema_version": 99})
    put(world, PARKED, newer, b"newer")
    world.broker.append(where, b"odd", b"\xff{", ())
    put(world, PARKED, parked("fine"), b"fine")
    put(world, PARKED, parked("gone"), b"gone")
    world.broker.append(where, b"gone", None, ())
    log = MemoryLog(world.broker)
    found = await runs_open(log, world.settings, EVERYTHING, now_ms=wall_clock_ms())
    assert [one.request_id for one in found.runs] == ["fine"]
    assert found.unreadable == 2


async def test_thousands_are_told_in_the_order_in_which_they_were_asked_for(
    world: MemoryLanes,
) -> None:
    world.create_topics()
    for number in range(2000):
        asked = making.resolved(request_id=f"r{number}", session_id=f"s{number}", at_ms=number)
        one = parked(f"r{number}", request=asked)
        put(world, PARKED, one, one.record_key.encode())
    async with asyncio.timeout(5):
        runs = await open_runs(world)
    assert list(runs) == [f"r{number}" for number in range(2000)]


async def test_a_run_that_was_moved_is_told_with_its_version_and_its_moves(
    world: MemoryLanes,
) -> None:
    outside = Outside(timeout_s=5)
    wanted = EventFilter(user_id="ada", request_id="r1")
    second = clerk(version="2")
    gap, text = Hold("asked", 1), 'call: put {"n": 1}; call: look {"n": 2}; say: done'
    async with paused_midway(world, outside, text, second, gap=gap) as run:
        await run.move(dry_run=True)
        await run.move()
        found = (await open_runs(world))["r1"]
        later_ms = wall_clock_ms() + 601_000
        later = (await open_runs(world, now_ms=later_ms))["r1"]
        log = MemoryLog(world.broker)
        records = await records_of_run(log, world.settings, wanted, since_ms=None)
    assert (found.state, found.template_version) == ("paused", "2")
    assert later.steps == found.steps == len(records.steps)
    (move,) = records.moves
    assert (move.from_version, move.to_version) == ("1", "2")
    assert records.steps[-1].kind == "moved"
    shown = shown_facts(found, records)
    assert shown["moves"] == [{"from": "1", "to": "2", "at_ms": move.at_ms}]
    assert ("moved", f"from 1 to 2 at {time_text(move.at_ms)}") in run_pairs(found, records)
