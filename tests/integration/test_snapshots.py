"""Snapshots on real Kafka: a restore from one is exact, and reads no more after a long history."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from millstream.agents.executor import wall_clock_ms
from millstream.middleware.policy import Policy
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.errors import HistoryGone, LaneLost
from millstream.schemas.events import AgentResult, Decision
from millstream.schemas.topics import (
    BASE_TOPICS,
    DEAD_LETTERS,
    DECISIONS,
    RESULTS,
    SNAPSHOTS,
    TopicSpec,
)
from millstream.streams.broker.clients import admin_client, transactional_producer
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.restore import Restored
from millstream.streams.settings import Settings
from millstream.streams.transactions.committer import Committer
from millstream.streams.transactions.guarded_producer import guarded_producer
from tests.harness.lane_common import chain_stages
from tests.harness.lanes import lane_services, read_topic, read_whole, running_lanes, upstream
from tests.harness.writing_lane import (
    CHUNK_IDS,
    POLICY,
    Clock,
    WritingLane,
    restored_state,
    writing_lane,
)

IDS_MAX = 1000


@dataclasses.dataclass
class Deployment:
    """Opens one writing side after the other over the same topics."""

    settings: Settings
    services: LaneServices
    clock: Clock
    reader: PartitionReader

    @asynccontextmanager
    async def lane(self) -> AsyncIterator[WritingLane]:
        (stage,) = chain_stages(self.settings, POLICY)
        lost: list[LaneLost] = []
        committer = Committer(
            lambda number: guarded_producer(
                self.settings, f"{self.settings.namespace}-writing-{number}"
            ),
            producers=2,
            records_max=self.settings.commit_records_max,
            timeout_s=20,
            gather_s=0.0,
            on_lost=lost.append,
        )
        await committer.start()
        try:
            async with writing_lane(
                self.settings,
                self.services,
                stage,
                POLICY,
                committer=committer,
                reader=self.reader,
            ) as lane:
                yield lane
            assert lost == []
        finally:
            await committer.stop()

    async def restored(
        self, policy: Policy = POLICY, *, upto: dict[str, int] | None = None, **other: Any
    ) -> tuple[LaneState, Restored]:
        """Restore as the next owner would, once whoever wrote last is fenced."""
        fence = transactional_producer(self.settings, f"{self.settings.namespace}-writing-0")
        other_fence = transactional_producer(self.settings, f"{self.settings.namespace}-writing-1")
        for producer in (fence, other_fence):
            await producer.start()
            await producer.stop()
        settings = self.settings.model_copy(update=other)
        return await restored_state(settings, policy, self.reader, now_ms=self.clock(), upto=upto)

    async def ends(self) -> dict[str, int]:
        """Give where each topic of the lane's partition ends."""
        places = {spec.name: self.at(spec) for spec in BASE_TOPICS}
        found = await self.reader.high_watermarks(places.values())
        return {name: found[where] for name, where in places.items()}

    def at(self, spec: TopicSpec) -> TopicPartition:
        """Give the lane's partition of a topic."""
        return TopicPartition(self.settings.topic(spec.name), 0)


@asynccontextmanager
async def deployed(settings: Settings, *, snapshot_records: int) -> AsyncIterator[Deployment]:
    update = {
        "partitions": 1,
        "snapshot_records": snapshot_records,
        "dedup_ids_max": IDS_MAX,
    }
    settings = settings.model_copy(update=update)
    clock = Clock()
    reader = PartitionReader(settings)
    async with lane_services(settings) as services:
        await reader.start()
        try:
            by_clock = dataclasses.replace(services, clock_ms=clock)
            yield Deployment(settings, by_clock, clock, reader)
        finally:
            await reader.stop()


def chance_of(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  the same history each time


@pytest.mark.slow
@pytest.mark.promise("P8")
@pytest.mark.parametrize("snapshot_records", [1, pytest.param(40, marks=pytest.mark.slow)])
async def test_wherever_a_lane_ends_its_successor_knows_what_a_fold_of_everything_does(
    settings: Settings, snapshot_records: int
) -> None:
    chance = chance_of(snapshot_records)
    used = 0
    async with deployed(settings, snapshot_records=snapshot_records) as deployment:
        for _ in range(6):
            async with deployment.lane() as lane:
                await lane.play(chance, chance.randint(20, 300), deployment.clock)
            state, restored = await deployment.restored()
            whole, folded = await deployment.restored(upto={SNAPSHOTS.name: 0})
            assert folded.snapshot is None
            used += restored.snapshot is not None
            assert state.digests() == whole.digests()
    assert used >= 3


@pytest.mark.slow
async def test_what_a_restore_reads_does_not_grow_with_the_history(settings: Settings) -> None:
    chance = chance_of(0)
    read: list[int] = []
    async with deployed(settings, snapshot_records=200) as deployment:
        for _ in range(3):
            async with deployment.lane() as lane:
                await lane.play(chance, 2500, deployment.clock)
                await lane.settled()
            _, restored = await deployment.restored()
            assert restored.snapshot is not None
            read.append(restored.tail_records)
            # Ids were forgotten, and their chunks with them: on the average a chunk is half full.
            left = sum(left for _, left, _ in restored.snapshot.chunks)
            assert left <= IDS_MAX * 9 / 8
            assert len(restored.snapshot.chunks) <= 2 * left // CHUNK_IDS + 1
        _, everything = await deployment.restored(upto={SNAPSHOTS.name: 0})
    assert deployment.clock.asked > 2 * IDS_MAX
    assert everything.tail_records > 4 * IDS_MAX
    # What is committed while a snapshot is written comes on top of what it is due after.
    assert max(read) < IDS_MAX


@pytest.mark.slow
@pytest.mark.promise("P8")
async def test_a_state_is_rebuilt_as_of_offsets_and_what_was_deleted_is_named(
    settings: Settings,
) -> None:
    chance = chance_of(3)
    moments: list[tuple[dict[str, int], dict[str, str]]] = []
    async with deployed(settings, snapshot_records=100) as deployment:
        deployment.clock.now_ms = wall_clock_ms()  # near the broker's, which stamps the records
        for _ in range(2):
            async with deployment.lane() as lane:
                for _ in range(2):
                    await lane.play(chance, 100, deployment.clock)
                    await lane.settled()
                    moments.append((await deployment.ends(), lane.state.digests()))
        for ends, live in moments:
            state, _ = await deployment.restored(upto=ends)
            assert state.digests() == live
        first, newest = moments[0][0], moments[-1][0]
        _, restored = await deployment.restored()
        assert restored.snapshot is not None
        deleted = restored.snapshot.logs[RESULTS.name] + 2
        admin = admin_client(settings)
        await admin.start()
        where = deployment.at(RESULTS)
        await admin.delete_records({where: RecordsToDelete(before_offset=deleted)})
        await admin.close()
        assert await deployment.reader.log_start_offsets([where]) == {where: deleted}
        for ends in (first, newest):
            with pytest.raises(HistoryGone) as gone:
                await deployment.restored(upto=ends)
            assert (gone.value.topic, gone.value.oldest) == (where.topic, deleted)
        _, restored = await deployment.restored()
        assert [one.oldest for one in restored.gone] == [deleted]


@pytest.mark.promise("P8")
async def test_a_snapshot_serves_another_policy_and_a_longer_memory_as_the_window_does(
    settings: Settings,
) -> None:
    chance = chance_of(5)
    caps = Policy.from_yaml(
        """
        defaults: {rate: {requests: 5, window_s: 1}, spend: {micros_per_day: 90}}
        prices: {local: {input_usd_per_mtok: 3, output_usd_per_mtok: 3}}
        """,
        "p",
    )
    rates = Policy.from_yaml("defaults: {rate: {requests: 9, window_s: 60}}", "p")
    async with deployed(settings, snapshot_records=100) as deployment:
        deployment.settings = deployment.settings.model_copy(update={"dedup_window_s": 2})
        deployment.clock.now_ms = wall_clock_ms()  # near the broker's, which stamps the records
        async with deployment.lane() as lane:
            await lane.play(chance, 400, deployment.clock, new_share=1.0)
            await lane.snapshots.close(20)
            await lane.play(chance, 100, deployment.clock, new_share=1.0)
        for policy, anew, other in (
            (POLICY, (), {}),
            (caps, (), {}),
            (rates, ("rate_limit",), {}),
            (POLICY, ("ids",), {"dedup_window_s": 86_400}),
            (rates, ("rate_limit", "ids"), {"dedup_window_s": 86_400}),
        ):
            state, restored = await deployment.restored(policy, **other)
            assert restored.snapshot is not None
            assert restored.refolded == anew
            nothing: dict[str, int] = {SNAPSHOTS.name: 0}
            whole, folded = await deployment.restored(policy, upto=nothing, **other)
            assert folded.snapshot is None
            assert state.digests() == whole.digests()


@pytest.mark.slow
async def test_limits_ids_and_bodies_are_exact_through_lanes_that_come_and_go(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"partitions": 1, "snapshot_records": 3})
    policy = Policy.from_yaml("defaults: {rate: {requests: 12, window_s: 3600}}", "p")
    asked = [{"user_id": "ada", "request_id": f"r{n}", "input": f"say: {n}"} for n in range(18)]
    async with upstream(settings) as program:
        for owner in range(3):
            async with running_lanes(settings, policy):
                for value in asked[: 6 * (owner + 1)]:  # the earlier ones again
                    await program.publish(value, key=b"ada")
                await read_topic(settings, RESULTS, AgentResult, count=6 * (owner + 1))
        async with running_lanes(settings, policy):
            await program.publish({**asked[0], "input": "something else"}, key=b"ada")
            letters = await read_topic(settings, DEAD_LETTERS, DeadLetter, count=1)
    results = await read_whole(settings, RESULTS, AgentResult)
    decisions = await read_whole(settings, DECISIONS, Decision)
    assert len(results) == len(decisions) == 18
    assert [one.status for one in results].count("completed") == 12
    assert [one.reason.code for one in letters] == ["request_id_reused"]
    reader = PartitionReader(settings)
    await reader.start()
    # Its ids are in no chunks yet: this reads them as a lane does.
    _, restored = await asyncio.wait_for(
        restored_state(settings, policy, reader, now_ms=10**13), 30
    )
    await reader.stop()
    assert restored.snapshot is not None
    assert restored.tail_records == 0


@pytest.mark.rule(3)
async def test_what_a_stage_learned_of_another_ones_costs_is_in_its_snapshots_once(
    settings: Settings,
) -> None:
    update = {"partitions": 1, "snapshot_records": 1, "chain_cuts": ("executor",)}
    settings = settings.model_copy(update=update)
    # A run reserves 256 and costs 200: five fit, unless what four of them cost is counted twice.
    # And each owner has another policy: the rate limit is folded anew, what was spent is not.
    policies = (
        Policy.from_yaml(
            f"""
            defaults: {{spend: {{micros_per_day: 1200}}, rate: {{requests: 5, window_s: {window}}}}}
            prices: {{scripted: {{input_usd_per_mtok: 0, output_usd_per_mtok: 1}}}}
            """,
            "p",
        )
        for window in (60, 600, 3600)
    )
    async with upstream(settings) as program:
        for numbers, policy in zip(((0, 1), (2, 3), (4,)), policies, strict=True):
            async with running_lanes(settings, policy):
                for number in numbers:
                    asked = {"user_id": "ada", "request_id": f"r{number}", "input": "tokens: 200"}
                    await program.publish(asked, key=b"ada")
                    results = await read_topic(settings, RESULTS, AgentResult, count=number + 1)
    assert [one.status for one in results] == ["completed"] * 5
    assert {one.cost_micros for one in results} == {200}
