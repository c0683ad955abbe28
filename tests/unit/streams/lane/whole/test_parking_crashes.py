"""Whatever is parked, paused and resumed, and however often the owner is lost: one result each."""

from __future__ import annotations

import random
from collections import Counter
from itertools import product
from typing import Any

import pytest

from millstream.schemas.events import AgentResult, AgentToken
from millstream.schemas.topics import CONTROL, DEFERRED, HOLDS, PARKED, REQUESTS, RESULTS, TOKENS
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    Upstream,
    lane_services,
    one_lane,
    open_keys,
    read_topic,
    read_whole,
    upstream,
)
from tests.support import eventually

REQUESTS_MADE = 80
OWNERS = 5
USERS = ("ada", "bob", "eve")
SESSIONS = ("s1", "s2")


Record = tuple[Any, dict[str, Any]]


async def is_forgotten(world: MemoryLanes) -> bool:
    return not await open_keys(world, DEFERRED)


class Partition:
    """The records of a partition, handed again to each owner from the last acknowledged one on."""

    def __init__(
        self, world: MemoryLanes, program: Upstream, seed: int, *, is_behind: bool
    ) -> None:
        self._requests = world.topic(REQUESTS)
        self._control = world.topic(CONTROL)
        self._program = program
        self._is_behind = is_behind
        self._chance = random.Random(seed)  # noqa: S311  the same steps for the same seed
        self._sent: dict[str, list[Record]] = {self._requests: [], self._control: []}
        self._acked: Counter[str] = Counter()
        self._paused: set[tuple[str, str]] = set()

    @property
    def requests_made(self) -> int:
        return len(self._sent[self._requests])

    async def next_step(self, lane: OneLane) -> None:
        """Ask for something, or pause or resume a session."""
        user, session = self._chance.choice(USERS), self._chance.choice(SESSIONS)
        what = self._chance.random()
        if what < 0.1:
            await self._command(lane, "pause", user, session)
            self._paused.add((user, session))
        elif what < 0.2:
            await self._command(lane, "resume", user, session)
            self._paused.discard((user, session))
        else:
            number = self.requests_made
            slow_s = self._chance.choice((0, 0.002, 0.02))
            request = {
                "user_id": user,
                "session_id": session,
                "request_id": f"r{number}",
                "input": f"slow: {slow_s}; say: {number}",
            }
            await self._publish(lane, self._requests, request)

    async def resume_all(self, lane: OneLane) -> None:
        for user, session in sorted(self._paused):
            await self._command(lane, "resume", user, session)

    def serve_again(self, lane: OneLane) -> None:
        """Hand over what the last owner had not acknowledged, as a consumer group does."""
        for topic, records in self._sent.items():
            for record in records[self._acked[topic] :]:
                lane.serve(*record)

    def lost(self, lane: OneLane) -> None:
        """Take note of what an owner acknowledged."""
        self._acked += lane.acked_of

    async def _command(self, lane: OneLane, name: str, user: str, session: str) -> None:
        value = {"user_id": user, "command": name, "session_id": session}
        await self._publish(lane, self._control, value)

    async def _publish(self, lane: OneLane, topic: str, value: dict[str, Any]) -> None:
        sent = await self._program.publish(value, partition=0, topic=topic)
        self._sent[topic].append((sent, value))
        is_behind = self._is_behind and self._chance.random() < 0.3
        lane.serve(sent, value, is_behind=is_behind)


@pytest.mark.parametrize(
    ("waiting_per_user_max", "is_behind"), [(1000, False), (2, False), (1000, True)]
)
@pytest.mark.parametrize("seed", range(3))
async def test_every_request_has_one_result_and_every_session_its_order(
    world: MemoryLanes,
    seed: int,
    waiting_per_user_max: int,
    is_behind: bool,  # noqa: FBT001
) -> None:
    few = {
        "partitions": 1,
        "runs_in_flight_max": 4,
        "runs_per_user_max": 1,
        "park_after_s": 0.01,
        "waiting_per_user_max": waiting_per_user_max,
    }
    world = world.limited(at_hand_behind=2).changed(**few)
    async with lane_services(world) as services, upstream(world) as program:
        partition = Partition(world, program, seed, is_behind=is_behind)
        for owner in range(OWNERS):
            async with one_lane(world, services, None) as lane:
                partition.serve_again(lane)
                while partition.requests_made < (owner + 1) * REQUESTS_MADE // OWNERS:
                    await partition.next_step(lane)
                if owner + 1 == OWNERS:
                    await partition.resume_all(lane)
                    await read_topic(world, RESULTS, AgentResult, count=REQUESTS_MADE)
                    await eventually(lambda: is_forgotten(world))
                partition.lost(lane)
    results = await read_whole(world, RESULTS, AgentResult)
    assert sorted(int(one.request_id[1:]) for one in results) == list(range(REQUESTS_MADE))
    assert {one.status for one in results} == {"completed"}
    for user, session in product(USERS, SESSIONS):
        of_session = [
            int(one.request_id[1:])
            for one in results
            if (one.user_id, one.session_id) == (user, session)
        ]
        assert of_session == sorted(of_session)
    tokens = await read_whole(world, TOKENS, AgentToken)
    for one in results:
        last = [
            each.text
            for each in tokens
            if each.request_id == one.request_id and each.attempt == one.attempt
        ]
        assert "".join(last) == one.output
    assert await open_keys(world, PARKED) == set()
    assert await open_keys(world, HOLDS) == set()
