"""Owners of a partition: who is fenced writes nothing, and what is read again counts once."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AsyncExitStack
from typing import Any

import pytest

from millstream.agents.executor import RunOutcome
from millstream.agents.factory import RunPlan
from millstream.middleware.policy import Policy
from millstream.schemas.errors import LaneFenced
from millstream.schemas.events import AgentResult, DeadLetter, Decision, ResolvedRequest
from millstream.schemas.lane_events import LaneOpened
from millstream.schemas.topics import DEAD_LETTERS, DECISIONS, LANES, RESULTS
from millstream.streams.lane.output import outcomes
from millstream.streams.lane.state.restore import Restored, restore
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from tests.harness.lanes import ask, lane_services, one_lane, read_topic, read_whole, upstream
from tests.support import eventually

TWO_AN_HOUR = Policy.from_yaml("defaults: {rate: {requests: 2, window_s: 3600}}", "test")


async def decided(settings: Settings, *, count: int) -> list[tuple[str, bool]]:
    decisions = await read_topic(settings, DECISIONS, Decision, count=count)
    return [(one.request_id, one.admitted) for one in decisions]


async def test_a_new_owner_with_fewer_producers_fences_all_of_the_last_ones(
    settings: Settings,
) -> None:
    fewer = settings.model_copy(update={"transactional_producers": 1})
    async with (
        lane_services(settings) as services,
        upstream(settings) as program,
        one_lane(settings, services, None) as zombie,
        one_lane(fewer, services, None),
    ):
        # Its first producer announced it, so the next commit is of one that the new owner has not.
        zombie.serve(*await ask(program, "say: x"))
        await asyncio.wait_for(zombie.lane.lost, 30)
    assert await read_whole(settings, DECISIONS, Decision) == []
    opened = await read_whole(settings, LANES, LaneOpened)
    assert [(one.generation, one.producers) for one in opened] == [(1, 3), (2, 1)]
    home = home_partition("ada", settings.partitions)
    assert {one.partition for one in opened} == {home}


@pytest.mark.parametrize("commits", range(3))
async def test_every_producer_of_the_last_owner_is_fenced_before_a_new_one_restores(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    async with (
        AsyncExitStack() as stack,
        lane_services(settings) as services,
        upstream(settings) as program,
        one_lane(settings, services, None) as zombie,
    ):
        refused = {"template": "no_such"}  # one transaction each, and one producer after the other
        for number in range(commits):
            zombie.serve(*await ask(program, "x", request_id=f"r{number}", **refused))
            await decided(settings, count=number + 1)

        async def restore_later(*args: Any, **kwargs: Any) -> Restored:
            zombie.serve(*await ask(program, "x", request_id="late", **refused))
            assert isinstance(await asyncio.wait_for(zombie.lane.lost, 10), LaneFenced)
            return await restore(*args, **kwargs)

        monkeypatch.setattr("millstream.streams.lane.lane.restore", restore_later)
        await stack.enter_async_context(one_lane(settings, services, None))
    assert len(await read_whole(settings, DECISIONS, Decision)) == commits


async def test_a_lane_that_is_fenced_before_its_generation_is_committed_never_serves(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lane_services(settings) as services, AsyncExitStack() as stack:

        async def restore_too_slowly(*args: Any, **kwargs: Any) -> Restored:
            monkeypatch.undo()
            restored = await restore(*args, **kwargs)
            await stack.enter_async_context(one_lane(settings, services, None))
            return restored

        monkeypatch.setattr("millstream.streams.lane.lane.restore", restore_too_slowly)
        with pytest.raises(LaneFenced):
            await stack.enter_async_context(one_lane(settings, services, None))
    assert [one.generation for one in await read_whole(settings, LANES, LaneOpened)] == [1]


async def test_a_record_that_is_processed_again_is_counted_once(settings: Settings) -> None:
    async with lane_services(settings) as services, upstream(settings) as program:
        first = await ask(program, "hang")
        async with one_lane(settings, services, TWO_AN_HOUR) as owner:
            owner.serve(*first)
            await read_topic(settings, DECISIONS, Decision, count=1)
        async with one_lane(settings, services, TWO_AN_HOUR) as owner:
            owner.serve(*first)
            owner.serve(*await ask(program, "hang"))  # the same request, published again
            owner.serve(*await ask(program, "say: x", request_id="r2"))
            owner.serve(*await ask(program, "say: x", request_id="r3"))
            told = await decided(settings, count=3)
        # Restored once more: finished or not, each counts as it did.
        async with one_lane(settings, services, TWO_AN_HOUR) as owner:
            owner.serve(*first)
            owner.serve(*await ask(program, "say: x", request_id="r4"))
            told = await decided(settings, count=4)
    assert told == [("r1", True), ("r2", True), ("r3", False), ("r4", False)]


async def test_what_a_zombie_decides_counts_for_nothing(settings: Settings) -> None:
    async with lane_services(settings) as services, upstream(settings) as program:
        async with (
            one_lane(settings, services, TWO_AN_HOUR) as zombie,
            one_lane(settings, services, TWO_AN_HOUR) as owner,
        ):
            for number in (1, 2):
                zombie.serve(*await ask(program, "say: x", request_id=f"zombie-{number}"))
            await asyncio.wait_for(zombie.lane.lost, 30)
            for number in (1, 2):
                owner.serve(*await ask(program, "say: x", request_id=f"r{number}"))
            await read_topic(settings, RESULTS, AgentResult, count=2)
        async with one_lane(settings, services, TWO_AN_HOUR) as owner:
            owner.serve(*await ask(program, "say: x", request_id="r3"))
            told = await decided(settings, count=3)
    assert told == [("r1", True), ("r2", True), ("r3", False)]


async def test_a_record_is_buried_once_and_acknowledged_only_then(settings: Settings) -> None:
    value: dict[str, Any] = {"user_id": "ada"}  # it asks for nothing
    async with lane_services(settings) as services, upstream(settings) as program:
        served = await program.publish(value, key=b"ada"), value
        async with (
            one_lane(settings, services, None) as zombie,
            one_lane(settings, services, None) as owner,
        ):
            zombie.serve(*served)
            await asyncio.wait_for(zombie.lane.lost, 30)
            assert zombie.acked == []
            owner.serve(*served)
            await eventually(lambda: owner.acked)
            assert len(await read_whole(settings, DEAD_LETTERS, DeadLetter)) == 1
        async with one_lane(settings, services, None) as owner:
            owner.serve(*served)
            owner.serve(*await ask(program, "say: x"))
            await read_topic(settings, RESULTS, AgentResult, count=1)
            assert len(owner.acked) == 2
    assert len(await read_whole(settings, DEAD_LETTERS, DeadLetter)) == 1


async def test_a_request_is_begun_no_more_often_than_one_owner_has_numbers_for(
    settings: Settings,
) -> None:
    numbers: list[int] = []

    async def pause(
        request: ResolvedRequest, _plan: RunPlan, *, attempt: int, **_: object
    ) -> RunOutcome:
        """Stop before a call, as an attempt does whose request is paused and at once resumed."""
        numbers.append(attempt)
        stopped = outcomes.result(request, at_ms=0, status="failed", attempt=attempt)
        return RunOutcome(stopped, checkpoint=None, suspended=True)

    async with lane_services(settings) as services, upstream(settings) as program:
        pausing = dataclasses.replace(services, run_agent=pause)
        async with one_lane(settings, pausing, None) as owner:
            owner.serve(*await ask(program, "x"))
            (result,) = await read_topic(settings, RESULTS, AgentResult, count=1)
    assert numbers == list(range(1000, 2000))
    assert (result.status, result.attempt) == ("failed", 1999)
    assert result.reason is not None
    assert result.reason.code == "attempts_exhausted"
