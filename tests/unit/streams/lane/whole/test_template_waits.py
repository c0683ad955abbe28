"""A request whose template its lane's worker lacks waits for it, parked, and holds up nobody else.

What others lost here: a task of an unknown type is discarded (celery#854, #8165), or fails on
whichever worker is old still (bull#1479, #2458, temporalio/features#221), or is polled for ever and
stops the queue (MrAliev/local-ai-developer-toolkit#335); a parked run goes on with whatever is
deployed (langchain-ai/docs#3843), or never (czpython/druks#619).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from millstream.agents.templates.session_rules import SessionRules
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.middleware.policy import Policy
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult, Decision
from millstream.schemas.lane_events import HoldPlaced, RunParked
from millstream.schemas.sessions.commands import SessionTtl
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import (
    DEAD_LETTERS,
    DECISIONS,
    HOLDS,
    PARKED,
    RESULTS,
    SESSION_STATES,
)
from millstream.streams.lane.base.context import LaneServices
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    Upstream,
    ask,
    give,
    lane_services,
    one_lane,
    open_keys,
    read_topic,
    read_whole,
    running_lanes,
    upstream,
)
from tests.harness.missing_templates import NEW, WITH_NEW, patient, waits
from tests.support import eventually

pytestmark = [pytest.mark.rule(9), pytest.mark.promise("P1")]


@asynccontextmanager
async def lacking(world: MemoryLanes) -> AsyncIterator[tuple[LaneServices, Upstream, OneLane]]:
    """Open a lane that lacks the template, and waits for it patiently."""
    world = patient(world)
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        yield services, program, owner


async def test_a_request_waits_parked_and_undecided_until_its_template_is_there(
    world: MemoryLanes,
) -> None:
    async with lacking(world) as (services, program, owner):
        owner.serve(*await ask(program, "say: x", template="new"))
        await waits(owner)
        (parked,) = await read_topic(world, PARKED, RunParked, count=1)
        assert await read_whole(world, DECISIONS, Decision) == []
        services.factory.register(NEW)
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
        (decision,) = await read_topic(world, DECISIONS, Decision, count=1)
    assert parked.undecided
    assert parked.waits_for is not None
    assert (parked.waits_for.template, parked.waits_for.version) == ("new", None)
    assert (result.status, result.output, result.template_version) == ("completed", "x", "7")
    assert decision.admitted
    assert decision.template_version == "7"
    # The broker's time of the request counts, as for any other.
    assert decision.at_ms == result.accepted_at_ms
    assert await open_keys(world, PARKED) == set()


async def test_what_its_template_says_of_sessions_holds_for_it_too(world: MemoryLanes) -> None:
    rules = SessionRules(create_first=True)
    async with lacking(world) as (services, program, owner):
        owner.serve(*await ask(program, "say: x", template="new"))
        await waits(owner)
        services.factory.register(NEW.model_copy(update={"session": rules}))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.reason is not None
    assert (result.status, result.reason.code) == ("rejected", "session_unknown")


async def test_its_session_lives_as_long_as_its_template_says(world: MemoryLanes) -> None:
    rules = SessionRules(ttl=SessionTtl(total_s=600))
    async with lacking(world) as (services, program, owner):
        owner.serve(*await ask(program, "say: x", template="new", session_id="s"))
        await waits(owner)
        services.factory.register(NEW.model_copy(update={"session": rules}))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    (state,) = await read_whole(world, SESSION_STATES, SessionState)
    assert (result.status, state.session_id, state.ttl.total_s) == ("completed", "s", 600)


async def test_a_deploy_loses_nothing_an_owner_with_the_template_serves_what_waited(
    world: MemoryLanes,
) -> None:
    world = patient(world)
    async with upstream(world) as program:
        async with lane_services(world) as old, one_lane(world, old, None) as owner:
            for number in range(3):
                owner.serve(*await ask(program, "say: x", request_id=f"r{number}", template="new"))
            await waits(owner, 3)
        new = lane_services(world, templates=WITH_NEW)
        async with new as services, one_lane(world, services, None):
            results = await read_topic(world, RESULTS, AgentResult, count=3)
    assert {one.status for one in results} == {"completed"}
    assert len(await read_whole(world, DECISIONS, Decision)) == 3
    assert await open_keys(world, PARKED) == set()


@pytest.mark.promise("P4")
async def test_the_runs_of_a_session_wait_behind_it_and_others_do_not(world: MemoryLanes) -> None:
    async with lacking(world) as (services, program, owner):
        for number, template in enumerate(("chat_agent", "new", "chat_agent")):
            asked = {"request_id": f"r{number}", "session_id": "s", "template": template}
            owner.serve(*await ask(program, "say: x", **asked))
        owner.serve(*await ask(program, "say: x", request_id="other", session_id="another"))
        first = await read_topic(world, RESULTS, AgentResult, count=2)
        await eventually(lambda: owner.lane.waiting == 2)
        services.factory.register(NEW)
        results = await read_topic(world, RESULTS, AgentResult, count=4)
    assert {one.request_id for one in first} == {"r0", "other"}
    in_session = [one.request_id for one in results if one.session_id == "s"]
    assert in_session == ["r0", "r1", "r2"]
    assert {one.status for one in results} == {"completed"}


async def test_a_thousand_that_wait_for_one_template_hold_up_nobody(world: MemoryLanes) -> None:
    world = patient(world, runs_in_flight_max=8, runs_per_user_max=2, partitions=1)
    async with running_lanes(world) as lanes, upstream(world) as program:
        for number in range(1000):
            value = {"user_id": "ada", "request_id": f"r{number}", "template": "new"}
            await program.publish({**value, "input": "x"}, key=b"ada")
        for user in ("ada", "bob"):  # hers too: her other requests are not behind it
            for number in range(10):
                value = {"user_id": user, "request_id": f"quick{number}", "input": "say: x"}
                await program.publish(value, key=user.encode())
        results = await read_topic(world, RESULTS, AgentResult, count=20)
        await eventually(lambda: sum(one.figures().waiting for one in lanes) == 1000)
    assert {one.status for one in results} == {"completed"}


async def test_a_name_that_nobody_knows_is_told_soon_and_one_that_a_worker_has_waits_on(
    world: MemoryLanes,
) -> None:
    world = world.changed(template_unknown_wait_s=0.05)
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        services.group_templates.tell({"new", "chat_agent"})
        owner.serve(*await ask(program, "say: x", request_id="known", template="new"))
        owner.serve(*await ask(program, "say: x", request_id="misspelt", template="chat_agnt"))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
        assert owner.lane.waiting == 1
        (decision,) = await read_topic(world, DECISIONS, Decision, count=1)
    assert (result.request_id, result.status) == ("misspelt", "rejected")
    assert result.reason is not None
    assert result.reason.code == "unknown_template"
    known = "chat_agent, new, react_agent, structured_agent"
    assert f"known: {known}; waited 0.05 s" in result.reason.message
    assert "check the name" in result.reason.message
    assert (decision.admitted, decision.template_version) == (False, None)


async def test_what_a_worker_has_is_waited_for_so_long_and_then_rejected(
    world: MemoryLanes,
) -> None:
    world = world.changed(template_wait_s=0.05)
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, None) as owner,
    ):
        services.group_templates.tell({"new"})
        owner.serve(*await ask(program, "say: x", template="new", session_id="s"))
        owner.serve(*await ask(program, "say: x", request_id="behind", session_id="s"))
        results = await read_topic(world, RESULTS, AgentResult, count=2)
    assert [(one.request_id, one.status) for one in results] == [
        ("r1", "rejected"),
        ("behind", "completed"),
    ]
    assert results[0].reason is not None
    assert "waited 0.05 s" in results[0].reason.message
    assert "namespaces" in results[0].reason.message
    assert await open_keys(world, PARKED) == set()


async def test_a_wait_goes_on_under_the_next_owner_and_is_not_begun_anew(
    world: MemoryLanes,
) -> None:
    world = patient(world)
    async with upstream(world) as program, lane_services(world) as services:
        async with one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, "say: x", template="new"))
            await waits(owner)
        short = world.changed(template_unknown_wait_s=0.001)
        async with one_lane(short, services, None):
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.reason and result.reason.code) == (
        "rejected",
        "unknown_template",
    )


@pytest.mark.parametrize("target", [{"request_id": "r1"}, {"session_id": "s"}])
async def test_what_waits_can_be_cancelled(world: MemoryLanes, target: dict[str, str]) -> None:
    async with lacking(world) as (services, program, owner):
        owner.serve(*await ask(program, "say: x", template="new", session_id="s"))
        await waits(owner)
        owner.serve(*await give(world, program, "cancel", **target))
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
        services.factory.register(NEW)
        owner.serve(*await ask(program, "say: x", request_id="r2", session_id="s"))
        await read_topic(world, RESULTS, AgentResult, count=2)
    assert (result.request_id, result.status) == ("r1", "cancelled")
    decided = await read_whole(world, DECISIONS, Decision)
    assert [one.request_id for one in decided] == ["r2"]
    assert await open_keys(world, PARKED) == set()


async def test_what_is_paused_while_it_waits_is_decided_on_once_it_is_resumed(
    world: MemoryLanes,
) -> None:
    async with lacking(world) as (services, program, owner):
        owner.serve(*await ask(program, "say: x", template="new"))
        await waits(owner)
        owner.serve(*await give(world, program, "pause", request_id="r1"))
        await read_topic(world, HOLDS, HoldPlaced, count=1)
        services.factory.register(NEW)
        owner.serve(*await ask(program, "say: x", request_id="r2"))
        await read_topic(world, RESULTS, AgentResult, count=1)
        assert owner.lane.waiting == 1
        owner.serve(*await give(world, program, "resume", request_id="r1"))
        results = await read_topic(world, RESULTS, AgentResult, count=2)
    assert [one.request_id for one in results] == ["r2", "r1"]
    assert await open_keys(world, HOLDS) == set()


@pytest.mark.promise("P2")
async def test_what_waits_is_one_request_however_often_it_comes(world: MemoryLanes) -> None:
    world = patient(world)
    async with upstream(world) as program, lane_services(world) as services:
        asked = await ask(program, "say: x", template="new")
        async with one_lane(world, services, None) as owner:
            owner.serve(*asked)
            owner.serve(*await ask(program, "say: x", template="new"))
            await eventually(lambda: len(owner.acked) == 2)
            assert owner.lane.waiting == 1
        async with one_lane(world, services, None) as owner:
            owner.serve(*asked)
            owner.serve(*await ask(program, "say: another", template="new"))
            await read_topic(world, DEAD_LETTERS, DeadLetter, count=1)
            services.factory.register(NEW)
            await read_topic(world, RESULTS, AgentResult, count=1)
            await eventually(lambda: owner.lane.waiting == 0)
    (result,) = await read_whole(world, RESULTS, AgentResult)
    assert result.output == "x"


@pytest.mark.promise("P8")
async def test_what_waits_and_was_decided_late_is_one_state_live_and_restored(
    world: MemoryLanes,
) -> None:
    world = patient(world)
    async with upstream(world) as program, lane_services(world) as services:
        async with one_lane(world, services, None) as owner:
            for name, template in (("waits", "never"), ("late", "new")):
                owner.serve(*await ask(program, "hang", request_id=name, template=template))
            await waits(owner, 2)
            services.factory.register(NEW)
            await read_topic(world, DECISIONS, Decision, count=1)
            await eventually(lambda: len(owner.lane._state.decided) == 1)
            live = owner.lane._state.digests()
        async with one_lane(world, services, None) as owner:
            restored = owner.lane._state.digests()
            # It is not decided on again: its decision is committed, though it is parked without.
            await eventually(lambda: owner.lane.waiting == 1)
    for changes in ("generation",):
        live.pop(changes)
        restored.pop(changes)
    assert live == restored
    assert len(await read_whole(world, DECISIONS, Decision)) == 1


async def test_requests_of_a_template_that_is_retired_meanwhile_are_rejected_in_the_end(
    world: MemoryLanes,
) -> None:
    world = world.changed(template_unknown_wait_s=0.1)
    templates = lane_services(world, templates=WITH_NEW)
    async with templates as services, upstream(world) as program:
        services.factory.retire("new")
        async with one_lane(world, services, None) as owner:
            owner.serve(*await ask(program, "say: x", template="new"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.reason and result.reason.code) == (
        "rejected",
        "unknown_template",
    )


@pytest.mark.parametrize("behind_ms", [0, 3_600_000])
async def test_a_brokers_clock_that_is_behind_ends_no_wait(
    world: MemoryLanes, behind_ms: int
) -> None:
    async with lacking(world) as (services, program, owner):
        sent, value = await ask(program, "say: x", template="new")
        owner.serve(_Sent(sent, behind_ms), value)
        await waits(owner)
        services.factory.register(NEW)
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert result.status == "completed"


class _Sent:
    """A record's metadata, as of a broker whose clock is behind."""

    def __init__(self, sent: Any, behind_ms: int) -> None:
        self.topic, self.partition, self.offset = sent.topic, sent.partition, sent.offset
        self.timestamp = sent.timestamp - behind_ms


async def test_what_is_decided_late_is_held_to_its_users_permissions(world: MemoryLanes) -> None:
    world = patient(world)
    policy = Policy.from_yaml(
        "users: {ada: {roles: [reader]}}\nroles: {reader: {templates: [chat_agent]}}", "p"
    )
    async with (
        lane_services(world) as services,
        upstream(world) as program,
        one_lane(world, services, policy) as owner,
    ):
        owner.serve(*await ask(program, "say: x", template="new"))
        await waits(owner)
        services.factory.register(NEW)
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
        (decision,) = await read_topic(world, DECISIONS, Decision, count=1)
    assert (result.status, result.reason and result.reason.code) == ("rejected", "forbidden")
    assert not decision.admitted
    assert await open_keys(world, PARKED) == set()


async def test_where_the_chain_is_cut_the_first_stage_rejects_what_it_does_not_know(
    world: MemoryLanes,
) -> None:
    world = world.changed(chain_cuts=("executor",))
    async with running_lanes(world), upstream(world) as program:
        await program.publish({"user_id": "ada", "input": "x", "template": "new"}, key=b"ada")
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert (result.status, result.reason and result.reason.code) == (
        "rejected",
        "unknown_template",
    )


@pytest.mark.promise("P4")
async def test_a_flood_for_a_missing_template_is_left_where_it_stands_and_loses_nothing(
    world: MemoryLanes,
) -> None:
    world = patient(world, parked_max=10, runs_in_flight_max=4, runs_per_user_max=1, partitions=1)
    async with upstream(world) as program:
        async with running_lanes(world) as lanes:
            for number in range(30):
                value = {"user_id": "ada", "session_id": "s", "request_id": f"r{number}"}
                await program.publish({**value, "template": "new", "input": "x"}, key=b"ada")
            await program.publish({"user_id": "bob", "input": "say: x"}, key=b"bob")
            (first,) = await read_topic(world, RESULTS, AgentResult, count=1)
            await eventually(lambda: sum(one.figures().deferred for one in lanes) > 0)
        # Its snapshot has them in, and the next owner has the template.
        async with running_lanes(world, templates=WITH_NEW):
            results = await read_topic(world, RESULTS, AgentResult, count=31)
    assert first.user_id == "bob"
    of_ada = [one.request_id for one in results if one.user_id == "ada"]
    assert of_ada == [f"r{number}" for number in range(30)]
    assert {one.status for one in results} == {"completed"}
    assert await open_keys(world, PARKED) == set()
    assert len(await read_whole(world, DECISIONS, Decision)) == 31


async def test_what_was_decided_late_and_paused_is_parked_with_its_decision(
    world: MemoryLanes,
) -> None:
    world = patient(world)
    react = AgentTemplate(name="new", kind="react", tools=("current_time",))
    async with upstream(world) as program:
        async with lane_services(world) as services, one_lane(world, services, None) as owner:
            script = "slow: 0.2; call: current_time {}; say: done"
            owner.serve(*await ask(program, script, template="new"))
            await waits(owner)
            services.factory.register(react)
            await read_topic(world, DECISIONS, Decision, count=1)
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            *_, last = await read_topic(world, PARKED, RunParked, count=2)
            await eventually(lambda: owner.lane.waiting == 1)
        again = lane_services(world, templates=(*BUILT_IN_TEMPLATES, react))
        async with again as services, one_lane(world, services, None) as owner:
            owner.serve(*await give(world, program, "resume", request_id="r1"))
            (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
    assert not last.undecided
    assert (last.decision.admitted, last.template_version) == (True, "1")
    assert (result.status, result.output) == ("completed", "done")
    assert len(await read_whole(world, DECISIONS, Decision)) == 1
