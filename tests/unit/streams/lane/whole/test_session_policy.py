"""What the policy says of sessions, beside what they and their templates say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from millstream.agents.templates.session_rules import SessionRules
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.middleware.policy import Policy
from millstream.schemas.sessions.commands import SessionTtl
from millstream.schemas.sessions.states import SessionState
from millstream.schemas.topics import SESSION_STATES
from tests.harness.lane_sessions import SHORT, STRICT, Sessions, code_of
from tests.harness.memory_lanes import MemoryLanes, read_whole, running_lanes, upstream

BRIEF = AgentTemplate(name="brief", session=SessionRules(ttl=SessionTtl(idle_s=30)))


@pytest.fixture(params=[(), ("executor",)], ids=["fused", "staged"])
def either(request: pytest.FixtureRequest, world: MemoryLanes) -> MemoryLanes:
    return world.changed(chain_cuts=request.param)


@asynccontextmanager
async def under(world: MemoryLanes, policy: str) -> AsyncIterator[Sessions]:
    rules = Policy.from_yaml(policy, "policy.yaml")
    templates = (*BUILT_IN_TEMPLATES, STRICT, SHORT, BRIEF)
    async with running_lanes(world, rules, templates), upstream(world) as program:
        yield Sessions(world, program)


async def lives(world: MemoryLanes) -> dict[str, tuple[int | None, int | None]]:
    states = await read_whole(world, SESSION_STATES, SessionState)
    return {one.session_id: (one.ttl.idle_s, one.ttl.total_s) for one in states}


async def test_it_may_ask_for_sessions_that_were_created(either: MemoryLanes) -> None:
    policy = """
    roles: {all: {templates: ["*"]}}
    defaults: {roles: [all], sessions: {create_first: true}}
    users: {ben: {sessions: unlimited}}
    """
    async with under(either, policy) as mine:
        refused = await mine.turn("say: one")
        assert (refused.status, code_of(refused)) == ("rejected", "session_unknown")
        assert refused.reason is not None
        assert "the policy" in refused.reason.message
        await mine.tell("create")
        assert (await mine.turn("say: one")).status == "completed"
        # The policy of another user asks for nothing; a template still may.
        assert (await mine.turn("say: x", user_id="ben")).status == "completed"
        strict = await mine.turn("say: x", user_id="ben", session_id="t", template="strict")
        assert code_of(strict) == "session_unknown"


async def test_what_session_and_template_leave_open_is_as_the_policy_says(
    either: MemoryLanes,
) -> None:
    async with under(either, "defaults: {sessions: {ttl: {idle_s: 90, total_s: 900}}}") as mine:
        await mine.turn("say: x", session_id="policy")
        await mine.turn("say: x", session_id="brief", template="brief")
        await mine.turn("say: x", session_id="short", template="short")
        await mine.tell("create", "created")
        await mine.tell("create", "own", ttl={"idle_s": 7})
        await mine.turn("say: x", session_id="own", template="brief")
        await mine.tell("create", "changed")
        await mine.tell("update", "changed", ttl={"total_s": 5})
    assert await lives(either) == {
        "policy": (90, 900),
        "brief": (30, 900),
        "short": (90, 60),
        "created": (90, 900),
        "own": (7, 900),
        "changed": (None, 5),
    }


async def test_sessions_that_exist_live_on_as_they_began_when_the_policy_changes(
    world: MemoryLanes,
) -> None:
    async with under(world, "defaults: {sessions: {ttl: {idle_s: 90}}}") as mine:
        await mine.turn("say: x", session_id="old")
    later = "defaults: {sessions: {create_first: true, ttl: {idle_s: 5}}}"
    async with under(world, later) as mine:
        assert (await mine.turn("say: y", session_id="old")).status == "completed"
        assert code_of(await mine.turn("say: x", session_id="new")) == "session_unknown"
        await mine.tell("create", "new")
    assert await lives(world) == {"old": (90, None), "new": (5, None)}
