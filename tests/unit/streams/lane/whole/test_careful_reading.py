"""A record that kills whoever reads it is buried unread, and what stands behind it is served."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aiokafka import TopicPartition

from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import LaneOpened, StageRequest
from millstream.schemas.topics import CONTROL, DEAD_LETTERS, LANES, REQUESTS, RESULTS
from millstream.streams.lane.input.careful_reading import CAREFUL_FROM, DEATHS_MAX
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.records import InputRecord
from tests.harness.lane_common import chain_stages
from tests.harness.memory_lanes import (
    MemoryLanes,
    MemoryStage,
    lane_services,
    read_whole,
    upstream,
)
from tests.support import eventually

pytestmark = pytest.mark.promise("P7")

KILLS = "say: kill"


class Killed(BaseException):
    """The process is gone: nobody catches this."""


class Deployment:
    """Workers one after the other, each as long as it lives; `killed_at` are the offsets."""

    def __init__(self, world: MemoryLanes) -> None:
        self.world = world
        self.killed_at: list[int] = []
        self.home = home_partition("ada", world.settings.partitions)

    def _read(self, record: InputRecord) -> tuple[object, StageRequest | None]:
        if KILLS.encode() in (record.value or b""):
            self.killed_at.append(record.offset)
            raise Killed
        return self._stage.read(record)

    async def worker(self, *, until: int) -> bool:
        """Run one until that many results are there; false: it was killed before."""
        (self._stage,) = chain_stages(self.world.settings, None)
        killed = len(self.killed_at)
        async with lane_services(self.world) as services:
            lanes = MemoryStage(self.world, services, replace(self._stage, read=self._read))
            await eventually(lambda: len(self.killed_at) > killed or self.results() >= until)
            for slot in lanes._slots:
                await slot.close()
            await lanes.stop()
        return self.results() >= until

    def results(self) -> int:
        where = TopicPartition(self.world.topic(RESULTS), self.home)
        return len(self.world.broker.records(where))

    async def publish(self, *texts: str) -> None:
        async with upstream(self.world) as program:
            for text in texts:
                await program.publish({"user_id": "ada", "input": text}, partition=self.home)


async def test_a_record_that_kills_as_it_is_read_is_buried_and_its_neighbours_are_served(
    world: MemoryLanes,
) -> None:
    deployment = Deployment(world)
    await deployment.publish("say: a", "say: b", KILLS, "say: c")
    workers = 0
    while not await deployment.worker(until=3):
        workers += 1
        assert workers < 10
    assert deployment.killed_at == [2] * (CAREFUL_FROM - 1 + DEATHS_MAX)
    outputs = [one.output for one in await read_whole(world, RESULTS, AgentResult)]
    assert sorted(map(str, outputs)) == ["a", "b", "c"]
    (letter,) = await read_whole(world, DEAD_LETTERS, DeadLetter)
    assert (letter.reason.code, letter.source.offset) == ("unserviceable", 2)
    assert letter.reason.message == "2 workers were lost as they read it, and nothing else"

    # Nothing is held against what comes later.
    await deployment.publish("say: d")
    assert await deployment.worker(until=4)


async def test_one_that_kills_a_serving_worker_is_found_as_well(world: MemoryLanes) -> None:
    deployment = Deployment(world)
    await deployment.publish("say: a")
    assert await deployment.worker(until=1)
    await deployment.publish(KILLS, "say: b", KILLS, "say: c")
    workers = 0
    while not await deployment.worker(until=3):
        workers += 1
        assert workers < 20
    letters = await read_whole(world, DEAD_LETTERS, DeadLetter)
    assert sorted(one.source.offset for one in letters) == [1, 3]


async def test_workers_that_come_and_go_bury_nothing(world: MemoryLanes) -> None:
    """Ten deploys, each before its records were done: whatever is slow kills nobody."""
    world = world.changed(runs_in_flight_max=4)
    deployment = Deployment(world)
    await deployment.publish(*(f"say: {number}" for number in range(40)))
    for _ in range(10):
        await deployment.worker(until=0)
    assert await deployment.worker(until=40)
    assert await read_whole(world, DEAD_LETTERS, DeadLetter) == []
    assert deployment.killed_at == []


async def test_no_partition_that_is_idle_writes_more_than_that_it_was_opened(
    world: MemoryLanes,
) -> None:
    deployment = Deployment(world)
    for _ in range(5):
        await deployment.worker(until=0)
    told = await read_whole(world, LANES, LaneOpened)
    assert all(one.reading is None for one in told)


async def test_a_lane_tells_where_it_begins_to_read_by_topic(world: MemoryLanes) -> None:
    deployment = Deployment(world)
    await deployment.publish("say: a")
    async with upstream(world) as program:
        command = {"user_id": "ada", "command": "resume", "session_id": "s"}
        await program.publish(command, partition=deployment.home, topic=world.topic(CONTROL))
    assert await deployment.worker(until=1)
    newest = [one for one in await read_whole(world, LANES, LaneOpened) if one.reading][-1]
    assert newest.reading is not None
    begins = {name: (one.begins, one.openings) for name, one in newest.reading.items()}
    assert begins == {REQUESTS.name: (0, 1), CONTROL.name: (0, 1)}
