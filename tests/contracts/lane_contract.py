"""What a lane does with real clients and over a broker in memory alike: cases that both run.

A case speaks to `harness`, which is `tests.harness.lanes` or `tests.harness.memory_lanes`: they
have the same names. Its `world` is what these take: settings, or a deployment in memory.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import TopicPartition

from millstream.agents.executor import wall_clock_ms
from millstream.schemas.base import Address
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult, AgentToken, Decision
from millstream.schemas.lane_events import LaneOpened
from millstream.schemas.topics import (
    CONTROL,
    DEAD_LETTERS,
    DECISIONS,
    DEFERRED,
    HOLDS,
    LANES,
    REQUESTS,
    RESULTS,
    TOKENS,
)
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.records import origin_header
from tests.contracts.log_world import started
from tests.support import eventually

DAY_MS = 86_400_000
ASKED = {"user_id": "ada", "request_id": "r1", "input": "one"}
OTHERWISE = {**ASKED, "input": "two"}
NEXT = {"user_id": "ada", "request_id": "r2", "input": "next"}


class LaneCases:
    """Cases of a whole lane; a subclass gives `harness` and the `world` fixture."""

    harness: Any

    def settings_of(self, world: Any) -> Settings:
        """Give a world's settings."""
        raise NotImplementedError

    def changed(self, world: Any, **changes: object) -> Any:
        """Give the same world with other settings."""
        raise NotImplementedError

    async def is_forgotten(self, world: Any) -> bool:
        """Whether no request is deferred any more."""
        return not await self.harness.open_keys(world, DEFERRED)


class LaneContract(LaneCases):
    """Cases of one lane and its owners."""

    @pytest.mark.rule(3)
    @pytest.mark.promise("P1")
    async def test_a_record_that_was_not_acknowledged_before_a_long_stop_has_no_second_result(
        self, world: Any
    ) -> None:
        with_ = self.harness
        assert self.settings_of(world).dedup_window_s * 1000 <= DAY_MS
        async with with_.lane_services(world) as services, with_.upstream(world) as program:
            served = await with_.ask(program, "say: x")
            async with with_.one_lane(world, services, None) as first:
                first.serve(*served)
                await with_.read_topic(world, RESULTS, AgentResult, count=1)
            later = replace(services, clock_ms=lambda: wall_clock_ms() + 2 * DAY_MS)
            async with with_.one_lane(world, later, None) as second:
                second.serve(*served)
                second.serve(*await with_.ask(program, "say: x", request_id="r2"))
                await eventually(lambda: len(second.acked) == 2, timeout_s=30)
        results = await with_.read_whole(world, RESULTS, AgentResult)
        assert sorted(one.request_id for one in results) == ["r1", "r2"]

    @pytest.mark.rule(5)
    async def test_a_new_owner_with_fewer_producers_fences_all_of_the_last_ones(
        self, world: Any
    ) -> None:
        with_ = self.harness
        fewer = self.changed(world, transactional_producers=1)
        async with (
            with_.lane_services(world) as services,
            with_.upstream(world) as program,
            with_.one_lane(world, services, None) as zombie,
            with_.one_lane(fewer, services, None),
        ):
            # Its first producer announced it; the next commit is of one that the new owner lacks.
            zombie.serve(*await with_.ask(program, "say: x"))
            await asyncio.wait_for(zombie.lane.lost, 30)
        assert await with_.read_whole(world, DECISIONS, Decision) == []
        opened = await with_.read_whole(world, LANES, LaneOpened)
        assert [(one.generation, one.producers) for one in opened] == [(1, 3), (2, 1)]
        home = home_partition("ada", self.settings_of(world).partitions)
        assert {one.partition for one in opened} == {home}

    @pytest.mark.rule(4)
    @pytest.mark.rule(8)
    async def test_no_transaction_writes_tokens_or_to_the_partition_of_another_lane(
        self, world: Any
    ) -> None:
        with_, settings = self.harness, self.settings_of(world)
        home = home_partition("ada", settings.partitions)
        away = (home + 1) % settings.partitions
        async with with_.running_lanes(world), with_.upstream(world) as program:
            await program.publish({"user_id": "ada", "input": "tokens: 5"}, partition=away)
            await with_.read_topic(world, RESULTS, AgentResult, count=1)
        tokens = await with_.read_whole(world, TOKENS, AgentToken)
        written = {
            TopicPartition(settings.topic(TOKENS.name), home): len(tokens),
            TopicPartition(settings.topic(REQUESTS.name), home): 1,
        }
        async with started(with_.reader(world)) as reader:
            # A transaction would have left its marker behind the records.
            assert await reader.high_watermarks(written) == written

    async def test_a_command_that_is_moved_twice_is_one(self, world: Any) -> None:
        with_ = self.harness
        topic = self.settings_of(world).topic(CONTROL.name)
        origin = origin_header(Address(topic=topic, partition=99, offset=7))
        async with with_.lane_services(world) as services, with_.upstream(world) as program:
            moved, again = [
                await with_.give(world, program, "pause", request_id="r1") for _ in range(2)
            ]
            resume = await with_.give(world, program, "resume", request_id="r1")
            async with with_.one_lane(world, services, None) as owner:
                owner.serve(*moved, origin)
                await eventually(lambda: owner.acked_of[topic] == 1)
                assert len(await with_.open_keys(world, HOLDS)) == 1
                owner.serve(*resume)
                await eventually(lambda: owner.acked_of[topic] == 2)
            async with with_.one_lane(world, services, None) as owner:
                owner.serve(*again, origin)  # by a worker that slept, say
                owner.serve(*await with_.ask(program, "say: x"))
                (result,) = await with_.read_topic(world, RESULTS, AgentResult, count=1)
                await eventually(lambda: owner.acked_of[topic] == 1)
        assert (result.request_id, result.status) == ("r1", "completed")
        assert await with_.open_keys(world, HOLDS) == set()

    @pytest.mark.rule(11)
    @pytest.mark.promise("P2")
    async def test_the_same_id_with_another_body_is_a_dead_letter_also_for_a_new_owner(
        self, world: Any, cuts: tuple[str, ...]
    ) -> None:
        with_ = self.harness
        world = self.changed(world, chain_cuts=cuts)
        async with with_.upstream(world) as program:
            async with with_.running_lanes(world):
                await program.publish(ASKED, key=b"ada")
                await with_.read_topic(world, RESULTS, AgentResult, count=1)
                await program.publish(OTHERWISE, key=b"ada")
                (letter,) = await with_.read_topic(world, DEAD_LETTERS, DeadLetter, count=1)
            async with with_.running_lanes(world):
                await program.publish({**OTHERWISE, "input": "three"}, key=b"ada")
                await program.publish({**ASKED, "metadata": {"try": "2"}}, key=b"ada")
                await program.publish(NEXT, key=b"ada")
                results = await with_.read_topic(world, RESULTS, AgentResult, count=2)
        letters = await with_.read_whole(world, DEAD_LETTERS, DeadLetter)
        assert [one.reason.code for one in letters] == ["request_id_reused"] * 2
        assert letter.value == base64.b64encode(json.dumps(OTHERWISE).encode()).decode()
        assert [(one.request_id, one.output) for one in results] == [("r1", "one"), ("r2", "next")]
