"""A request id stands for one request: asked again it has one result, with another body none."""

from __future__ import annotations

import pytest

from millstream.middleware.policy import Policy
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult, Decision
from millstream.schemas.topics import CONTROL, DEAD_LETTERS, DECISIONS, RESULTS
from tests.harness.memory_lanes import MemoryLanes, read_topic, read_whole, running_lanes, upstream

pytestmark = [pytest.mark.rule(11), pytest.mark.promise("P2")]

ASKED = {"user_id": "ada", "request_id": "r1", "input": "one"}
OTHERWISE = {**ASKED, "input": "two"}
NEXT = {"user_id": "ada", "request_id": "r2", "input": "next"}


async def test_a_request_in_flight_is_not_the_one_that_asks_for_something_else(
    world: MemoryLanes,
) -> None:
    async with upstream(world) as program:
        async with running_lanes(world):
            await program.publish({**ASKED, "input": "hang"}, key=b"ada")
            await program.publish(OTHERWISE, key=b"ada")
            await read_topic(world, DEAD_LETTERS, DeadLetter, count=1)
            (decision,) = await read_topic(world, DECISIONS, Decision, count=1)
        async with running_lanes(world):  # both records come again: none was acknowledged
            await program.publish({**OTHERWISE, "model": "other"}, key=b"ada")
            letters = await read_topic(world, DEAD_LETTERS, DeadLetter, count=2)
    assert [one.reason.code for one in letters] == ["request_id_reused"] * 2
    assert decision.request_digest is not None
    assert await read_whole(world, RESULTS, AgentResult) == []


async def test_what_was_refused_is_known_by_its_body_too(world: MemoryLanes) -> None:
    policy = Policy.from_yaml("roles: {reader: {templates: [chat_agent]}}", "p")
    async with running_lanes(world, policy), upstream(world) as program:
        await program.publish(ASKED, key=b"ada")
        (result,) = await read_topic(world, RESULTS, AgentResult, count=1)
        await program.publish(OTHERWISE, key=b"ada")
        (letter,) = await read_topic(world, DEAD_LETTERS, DeadLetter, count=1)
    assert (result.status, letter.reason.code) == ("rejected", "request_id_reused")


async def test_a_request_that_was_cancelled_before_it_came_may_have_any_body(
    world: MemoryLanes,
) -> None:
    command = {"user_id": "ada", "command": "cancel", "request_id": "r1"}
    async with running_lanes(world), upstream(world) as program:
        await program.publish(command, key=b"ada", topic=world.topic(CONTROL))
        await read_topic(world, RESULTS, AgentResult, count=1)
        for value in (ASKED, OTHERWISE, NEXT):
            await program.publish(value, key=b"ada")
        results = await read_topic(world, RESULTS, AgentResult, count=2)
    assert [one.request_id for one in results] == ["r1", "r2"]
    assert await read_whole(world, DEAD_LETTERS, DeadLetter) == []
