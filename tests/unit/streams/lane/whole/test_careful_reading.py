"""A record that kills whoever reads it is buried unread, and what stands behind it is served."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import AgentResult
from millstream.schemas.lane_events import LaneOpened, StageRequest
from millstream.schemas.topics import CONTROL, DEAD_LETTERS, LANES, REQUESTS, RESULTS
from millstream.streams.lane.input.careful_reading import CAREFUL_FROM, DEATHS_MAX
from millstream.streams.wire.partitioning import home_partition, name_at
from millstream.streams.wire.records import InputRecord
from tests.contracts.waiting_lane_contract import LITTLE_ROOM
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

    def __init__(self, world: MemoryLanes, *, kills_at_once: bool = False) -> None:
        self.world = world
        self._kills_at_once = kills_at_once
        self.killed_at: list[int] = []
        self.read_alone: list[int] = []
        """How many records were told to be read alone, each time the worker was killed."""
        self.home = home_partition("ada", world.settings.partitions)

    def _read(self, record: InputRecord) -> tuple[object, StageRequest | None]:
        if KILLS.encode() in (record.value or b""):
            self.killed_at.append(record.offset)
            self.read_alone.append(self._read_alone())
            raise Killed
        return self._stage.read(record)

    def _read_alone(self) -> int:
        count = 0
        for where in self.world.places(LANES):
            records = self.world.broker.records(where)
            newest = LaneOpened.model_validate_json(records[-1].value or b"")
            count += sum(one.alone is not None for one in (newest.reading or {}).values())
        return count

    def _user_of(self, value: bytes | None) -> tuple[str, str] | None:
        if self._kills_at_once and KILLS.encode() in (value or b""):
            self.killed_at.append(-1)
            raise Killed
        return self._stage.user_of(value)

    async def worker(self, *, until: int) -> bool:
        """Run one until that many results are there; false: it was killed before."""
        (self._stage,) = chain_stages(self.world.settings, None)
        killed = len(self.killed_at)
        async with lane_services(self.world) as services:
            stage = replace(self._stage, read=self._read, user_of=self._user_of)
            lanes = MemoryStage(self.world, services, stage)
            await eventually(lambda: len(self.killed_at) > killed or self.results() >= until)
            for slot in lanes._slots:
                await slot.close()
            await lanes.stop()
        return self.results() >= until

    def results(self) -> int:
        return sum(len(self.world.broker.records(one)) for one in self.world.places(RESULTS))

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


async def test_what_is_read_beside_it_in_the_same_worker_is_not_held_responsible(
    world: MemoryLanes,
) -> None:
    """Each lane of a lost worker begins where it began before, and reads one by one, too."""
    world = world.changed(partitions=2)
    deployment = Deployment(world)
    beside = name_at(1 - deployment.home, 2)
    async with upstream(world) as program:
        for number in range(30):
            await program.publish(
                {"user_id": beside, "input": "slow: 0.1; say: beside", "session_id": str(number)},
                partition=1 - deployment.home,
            )
    await deployment.publish("say: a", KILLS, "say: b")
    workers = 0
    while not await deployment.worker(until=32):
        workers += 1
        assert workers < 10
    (letter,) = await read_whole(world, DEAD_LETTERS, DeadLetter)
    assert (letter.source.partition, letter.source.offset) == (deployment.home, 1)
    assert deployment.read_alone == [0] * (CAREFUL_FROM - 1) + [1] * DEATHS_MAX


async def test_one_that_was_left_unread_in_a_flood_is_found_as_it_is_read_at_last(
    world: MemoryLanes,
) -> None:
    """evolution-gaming/kafka-journal#921, wso2/product-integrator-mi#4947.

    It is acknowledged unread by then: where owners begin to read their partition does not tell.
    """
    world = world.changed(**LITTLE_ROOM)
    deployment = Deployment(world)
    flood = [f"say: {number}" for number in range(30)]
    await deployment.publish(*flood, KILLS, *flood)
    workers = 0
    while not await deployment.worker(until=60):
        workers += 1
        assert workers < 15
    (letter,) = await read_whole(world, DEAD_LETTERS, DeadLetter)
    assert (letter.reason.code, letter.source.offset) == ("unserviceable", 30)
    assert len(await read_whole(world, RESULTS, AgentResult)) == 60


async def test_what_was_buried_unread_is_not_read_to_find_what_a_flood_left(
    world: MemoryLanes,
) -> None:
    """Whose a record is, is read of it as well: this one kills whatever is read of it."""
    world = world.changed(**LITTLE_ROOM)
    deployment = Deployment(world, kills_at_once=True)
    flood = [f"say: {number}" for number in range(30)]
    await deployment.publish(*flood, KILLS, *flood)
    workers = 0
    while not await deployment.worker(until=60):
        workers += 1
        assert workers < 15
    (letter,) = await read_whole(world, DEAD_LETTERS, DeadLetter)
    assert (letter.reason.code, letter.source.offset) == ("unserviceable", 30)
