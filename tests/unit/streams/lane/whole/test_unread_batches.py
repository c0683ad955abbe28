"""A batch that cannot be read is buried by its offsets, once, and its partition goes on."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition

from millstream.schemas.base import compound_key
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.errors import LaneOutdated
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import (
    CHECKPOINTS,
    COMMAND_TOPICS,
    COSTS,
    DEAD_LETTERS,
    REQUESTS,
    RESULTS,
    SNAPSHOTS,
    TopicSpec,
)
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.unread import UnreadBatch
from tests.harness.memory_lanes import (
    MemoryLanes,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    running_lanes,
    upstream,
)
from tests.support import eventually
from tests.unit.streams.lane.whole.test_newer_records import FOLDED

pytestmark = pytest.mark.promise("P7")

HOME_OF = "ada"


def put(world: MemoryLanes, spec: TopicSpec, *, is_foreign: bool, key: bytes | None = None) -> int:
    """Put what a reader gets for a batch that it cannot read at ada's home; gives its offset."""
    world.create_topics()
    home = home_partition(HOME_OF, world.settings.partitions)
    where = TopicPartition(world.topic(spec), home)
    offset = world.broker.partition(where).high_watermark
    value = UnreadBatch.of(offset - 2, offset, "it is wrong", is_foreign=is_foreign)
    return world.broker.append(where, key, value).offset


@pytest.mark.parametrize("spec", [REQUESTS, *COMMAND_TOPICS], ids=lambda spec: spec.name)
@pytest.mark.parametrize("is_foreign", [True, False], ids=["too-large", "corrupt"])
async def test_a_batch_that_cannot_be_read_is_buried_once_and_its_neighbours_are_served(
    world: MemoryLanes, spec: TopicSpec, *, is_foreign: bool
) -> None:
    asked = {"user_id": "ada", "input": "say: served"}
    home = home_partition(HOME_OF, world.settings.partitions)
    async with running_lanes(world), upstream(world) as program:
        await program.publish(asked, partition=home)
        for _ in range(2):  # on a topic of commands they are the first records
            await program.publish({"bad": 1}, partition=home, topic=world.topic(spec))
        bad = put(world, spec, is_foreign=is_foreign)
        await program.publish(asked, partition=home)
        results = await read_topic(world, RESULTS, AgentResult, count=2)
        letters = await read_topic(world, DEAD_LETTERS, DeadLetter, count=3)
    assert [one.output for one in results] == ["served"] * 2
    (letter,) = [one for one in letters if one.first_offset is not None]
    code = "batch_too_large" if is_foreign else "batch_unreadable"
    assert (letter.reason.code, letter.value, letter.key) == (code, None, None)
    told = f"the batch of offsets {bad - 2} to {bad} cannot be read: it is wrong"
    assert letter.reason.message == told
    where = (letter.source.topic, letter.source.partition, letter.first_offset)
    assert where == (world.topic(spec), home, bad - 2)
    assert letter.source.offset == bad

    world.acked.clear()  # all comes again, as if nothing of it had been acknowledged
    async with running_lanes(world), upstream(world) as program:
        await program.publish(asked, partition=home)
        await read_topic(world, RESULTS, AgentResult, count=3)
    assert len(await read_whole(world, DEAD_LETTERS, DeadLetter)) == 3


SKIPPED = (SNAPSHOTS, CHECKPOINTS)
"""An older snapshot is as good; a checkpoint is looked for when its session is asked."""


@pytest.mark.parametrize(
    "spec", [one for one in FOLDED if one not in SKIPPED], ids=lambda spec: spec.name
)
async def test_a_lane_does_not_open_over_a_corrupt_batch_that_may_be_a_lanes(
    world: MemoryLanes, spec: TopicSpec
) -> None:
    bad = put(world, spec, is_foreign=False)
    async with lane_services(world) as services:
        told = rf"{spec.name}-\d-{bad} cannot be read: the batch of offsets -?\d+ to {bad}"
        with pytest.raises(LaneOutdated, match=told):
            async with one_lane(world, services, None):
                pass


async def test_what_no_lane_can_have_written_stops_no_lane(world: MemoryLanes) -> None:
    for spec in (*FOLDED, CHECKPOINTS):
        put(world, spec, is_foreign=True)
        put(world, spec, is_foreign=True, key=compound_key("chain", "header").encode())
    for spec in SKIPPED:
        put(world, spec, is_foreign=False)
    async with lane_services(world) as services, one_lane(world, services, None) as lane:
        assert lane


async def test_a_stage_that_follows_another_is_lost_over_a_corrupt_batch_and_no_foreign_one(
    world: MemoryLanes,
) -> None:
    world = world.changed(chain_cuts=("executor",))
    asked = {"user_id": "ada", "input": "say: served"}
    async with running_lanes(world) as stages, upstream(world) as program:
        put(world, COSTS, is_foreign=True)
        await program.publish(asked)
        await read_topic(world, RESULTS, AgentResult, count=1)
        assert all(one.is_ready for one in stages)
        put(world, COSTS, is_foreign=False)
        await program.publish({"user_id": "ada", "input": "say: served"})
        await eventually(lambda: not all(one.is_ready for one in stages))
