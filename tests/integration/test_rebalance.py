"""Partitions that change hands between live workers, on real Kafka."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack

import pytest

from millstream.schemas.events import AgentResult, AgentToken, Decision
from millstream.schemas.lane_events import LaneOpened
from millstream.schemas.topics import CONTROL, DECISIONS, LANES, RESULTS, TOKENS
from millstream.streams.lane.lanes import Lanes
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from tests.harness.lanes import (
    Upstream,
    ask,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    running_lanes,
    upstream,
)
from tests.support import eventually

pytestmark = pytest.mark.rule(10)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Have more partitions than workers, and no multiple of their number."""
    return settings.model_copy(update={"partitions": 4})


def user_per_partition(settings: Settings) -> dict[int, str]:
    """Give a user at home in each partition."""
    users: dict[int, str] = {}
    for number in range(1000):
        users.setdefault(home_partition(f"user-{number}", settings.partitions), f"user-{number}")
    return dict(sorted(users.items()))


async def ask_all(program: Upstream, users: list[str], text: str, name: str) -> set[str]:
    """Publish a request of each user, all of them in one session."""
    ids = {f"{user}.{name}" for user in users}
    for request_id in sorted(ids):
        user = request_id.removesuffix(f".{name}")
        request = {"user_id": user, "session_id": "s", "request_id": request_id, "input": text}
        await program.publish(request, key=user.encode())
    return ids


async def split(settings: Settings, *of_workers: Lanes) -> None:
    """Wait until all partitions are served, by each of these workers."""

    def shared_out() -> bool:
        served = [lanes.figures().open for lanes in of_workers]
        return sum(served) == settings.partitions and min(served) > 0

    await eventually(shared_out, timeout_s=30)


async def test_a_partition_that_changes_hands_lets_its_runs_end_first(settings: Settings) -> None:
    users = list(user_per_partition(settings).values())
    async with AsyncExitStack() as stack:
        program = await stack.enter_async_context(upstream(settings))
        (first,) = await stack.enter_async_context(running_lanes(settings))
        ids = await ask_all(program, users, "pace: 0.1; tokens: 20", "1")
        # These wait for their session behind the others; whoever has the partition then runs them.
        ids |= await ask_all(program, users, "tokens: 3", "2")
        await read_topic(settings, TOKENS, AgentToken, count=2 * settings.partitions)
        (second,) = await stack.enter_async_context(running_lanes(settings))
        results = await read_topic(settings, RESULTS, AgentResult, count=len(ids))
        await split(settings, first, second)
        tokens = await read_whole(settings, TOKENS, AgentToken)
        opened = await read_whole(settings, LANES, LaneOpened)
    assert {(one.request_id, one.status) for one in results} == {(id_, "completed") for id_ in ids}
    attempts = {(token.request_id, token.attempt) for token in tokens}
    assert len(attempts) == len(ids), "a run that could have ended was begun anew"
    owners = {(one.partition, one.generation) for one in opened}
    assert len(owners) == settings.partitions + settings.partitions // 2


@pytest.mark.slow
async def test_what_does_not_end_in_the_grace_is_cut_off_before_the_next_owner_begins(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"revoke_grace_s": 0.2})
    users = list(user_per_partition(settings).values())
    async with AsyncExitStack() as stack:
        program = await stack.enter_async_context(upstream(settings))
        (first,) = await stack.enter_async_context(running_lanes(settings))
        ids = await ask_all(program, users, "pace: 0.2; tokens: 20", "1")
        await read_topic(settings, TOKENS, AgentToken, count=settings.partitions)
        (second,) = await stack.enter_async_context(running_lanes(settings))
        await split(settings, first, second)
        results = await read_topic(settings, RESULTS, AgentResult, count=len(ids))
        tokens = await read_whole(settings, TOKENS, AgentToken)
    assert {(one.request_id, one.status) for one in results} == {(id_, "completed") for id_ in ids}
    written: dict[str, list[int]] = defaultdict(list)
    for token in tokens:
        written[token.request_id].append(token.attempt)
    begun_anew = [attempts for attempts in written.values() if len(set(attempts)) > 1]
    assert len(begun_anew) == settings.partitions // 2
    assert all(attempts == sorted(attempts) for attempts in begun_anew), "two wrote at once"


async def test_commands_come_to_the_worker_that_has_the_requests(settings: Settings) -> None:
    users = list(user_per_partition(settings).values())
    async with AsyncExitStack() as stack:
        program = await stack.enter_async_context(upstream(settings))
        # Three workers and four partitions: no multiple, so dealing one by one would tear them.
        workers = [(await stack.enter_async_context(running_lanes(settings)))[0] for _ in range(3)]
        await split(settings, *workers)
        ids = await ask_all(program, users, "hang", "1")
        await read_topic(settings, DECISIONS, Decision, count=len(ids))
        for user in users:
            command = {"user_id": user, "command": "cancel", "request_id": f"{user}.1"}
            topic = settings.topic(CONTROL.name)
            await program.publish(command, key=user.encode(), topic=topic)
        results = await read_topic(settings, RESULTS, AgentResult, count=len(ids))
    assert {(one.request_id, one.status) for one in results} == {(id_, "cancelled") for id_ in ids}


async def test_a_lane_that_is_to_be_handed_over_begins_no_run_that_waits(
    settings: Settings,
) -> None:
    async with (
        lane_services(settings) as services,
        upstream(settings) as program,
        one_lane(settings, services, None) as owner,
    ):
        owner.serve(*await ask(program, "hang", session_id="s"))
        owner.serve(*await ask(program, "say: x", request_id="r2", session_id="s"))
        await read_topic(settings, DECISIONS, Decision, count=2)
        drained = asyncio.create_task(owner.lane.drain(30))
        cancel = {"user_id": "ada", "command": "cancel", "request_id": "r1"}
        topic = settings.topic(CONTROL.name)
        await asyncio.wait({drained}, timeout=0.01)
        owner.serve(await program.publish(cancel, key=b"ada", topic=topic), cancel)
        assert await drained
        results = await read_whole(settings, RESULTS, AgentResult)
    assert [(one.request_id, one.status) for one in results] == [("r1", "cancelled")]
