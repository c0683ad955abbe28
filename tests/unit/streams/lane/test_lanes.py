from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from faust.types import TP

from millstream.agents.executor import AgentExecutor, wall_clock_ms
from millstream.agents.factory import AgentFactory
from millstream.middleware.pipeline import build_pipeline
from millstream.schemas.errors import LaneLapsed, LaneLost
from millstream.schemas.topics import COMMAND_TOPICS, CONTROL, REQUESTS
from millstream.streams.broker.clients import connecting
from millstream.streams.consumer.membership import since_boot_s
from millstream.streams.consumer.offset_gaps import OffsetGap
from millstream.streams.lane.base.context import LaneServices, stages
from millstream.streams.lane.base.metrics import LaneMetrics
from millstream.streams.lane.lanes import Lanes
from millstream.streams.lane.slot import LaneSlot
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from tests.harness.lane_common import no_redis
from tests.support import eventually

pytestmark = pytest.mark.rule(10)


class Place:
    """Stands for a slot; it closes only when it may."""

    name = "place"
    serving = True
    committing_s = 0.0

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()

        self.confirmed = 0
        self.lost: list[LaneLost] = []

        self.coming_again: list[str] = []

    def confirm(self) -> None:
        self.confirmed += 1

    def may_come_again(self, topic: str) -> None:
        self.coming_again.append(topic)

    def may_commit(self, topic: str) -> bool:
        return topic not in self.coming_again

    def lose(self, lost: LaneLost) -> None:
        self.lost.append(lost)

    @property
    def closed(self) -> bool:
        return self.may_close.is_set()

    async def drain(self, grace_s: float) -> bool:
        return grace_s > 0

    async def close(self) -> None:
        self.closing.set()
        await self.may_close.wait()


class LanesOfPlaces(Lanes):
    """Lanes that open no lane, so that they need no broker."""

    joined: asyncio.Event
    dealt_again = 0

    def _open_slot(self, partition: int) -> LaneSlot:
        return Place(partition)  # type: ignore[return-value]

    async def _join_anew(self) -> None:
        self.joined.set()

    def _deal_again(self) -> None:
        self.dealt_again += 1


def lanes_of_places(settings: Settings) -> LanesOfPlaces:
    factory = AgentFactory(default_model="scripted")
    services = LaneServices(
        worker="test",
        producer=AIOKafkaProducer(**connecting(settings)),
        factory=factory,
        run_agent=AgentExecutor(factory).run,
        peek_checkpoint=no_redis,
        clock_ms=wall_clock_ms,
        metrics=LaneMetrics.declare(MetricsCollector()),
        drain=lambda: None,
    )
    [stage] = stages((), lambda: build_pipeline(None).split(()))
    lanes = LanesOfPlaces(settings, services, stage)
    lanes.joined = asyncio.Event()
    return lanes


def both(settings: Settings, *partitions: int) -> set[TP]:
    """Give these partitions of all input topics."""
    names = [settings.topic(one.name) for one in (REQUESTS, *COMMAND_TOPICS)]
    return {TP(name, number) for name in names for number in partitions}


def deal(lanes: Lanes, numbers: list[int], wanted: list[int]) -> None:
    """Tell the assignor what the group's leader dealt."""
    lanes._membership.heard(since_boot_s())
    lanes._assignor.metadata(["control", "requests", "session-commands"])
    take(lanes, numbers, wanted)


def take(lanes: Lanes, numbers: list[int], wanted: list[int]) -> None:
    """Tell the assignor what comes of the newest join."""
    told = json.dumps({"round": 1, "wanted": wanted, "owed": 0}).encode()
    lanes._assignor.on_assignment(
        ConsumerProtocolMemberAssignment(0, [("requests", numbers)], told)
    )


async def test_partitions_that_come_have_their_slots_before_those_that_go_are_closed(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path)
    lanes = lanes_of_places(settings)
    await lanes._assigned(lanes.app, both(settings, 0, 1))
    gone: list[Place] = [lanes._slots[0], lanes._slots[1]]  # type: ignore[list-item]
    swap = asyncio.create_task(lanes._assigned(lanes.app, both(settings, 2, 3)))
    await eventually(lambda: all(place.closing.is_set() for place in gone))
    # A record of partition 2 may come now: closing lanes takes as long as their last commit.
    assert sorted(lanes._slots) == [2, 3]
    assert not swap.done()
    for place in gone:
        place.may_close.set()
    await swap


async def test_a_lane_that_stays_is_told_so_and_is_not_opened_anew(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    lanes = lanes_of_places(settings)
    await lanes._assigned(lanes.app, both(settings, 0))
    place: Place = lanes._slots[0]  # type: ignore[assignment]
    await lanes._assigned(lanes.app, both(settings, 0, 1))
    assert lanes._slots[0] is place  # type: ignore[comparison-overlap]
    # A lane that was lost is opened again only by that.
    assert place.confirmed == 1


async def test_who_is_thrown_out_of_the_group_drops_its_lanes_at_once(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    lanes = lanes_of_places(settings)
    await lanes._assigned(lanes.app, both(settings, 0, 1))
    lanes._membership.evicted()
    for place in lanes._slots.values():
        (lost,) = cast("Place", place).lost
        assert isinstance(lost, LaneLapsed)


async def test_a_lane_that_was_let_go_while_the_group_dealt_is_given_back_and_not_opened(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path)
    lanes = lanes_of_places(settings)
    deal(lanes, [0, 1], wanted=[1])
    await lanes._assigned(lanes.app, both(settings, 0, 1))
    wanted: Place = lanes._slots[1]  # type: ignore[assignment]
    lanes._assignor.metadata(
        ["control", "requests", "session-commands"]
    )  # it joins, still with both
    wanted.may_close.set()
    await lanes.joined.wait()
    take(lanes, [0, 1], wanted=[])
    assert lanes._assignor.given_back == {1}
    await lanes._assigned(lanes.app, both(settings, 0, 1))
    # Whoever is dealt it next may open its lane at any moment.
    assert lanes._slots[1] is wanted  # type: ignore[comparison-overlap]
    assert wanted.confirmed == 0
    assert lanes.dealt_again == 1
    await lanes._handover.stop()


async def test_a_worker_that_ends_closes_its_lanes_before_it_leaves_the_group(
    tmp_path: Path,
) -> None:
    left: list[object] = []

    lanes = lanes_of_places(Settings(data_dir=tmp_path))

    async def leave() -> None:
        left.append(lanes.app)

    lanes.app.stop = leave
    deal(lanes, [0, 1], wanted=[1])
    await lanes._assigned(lanes.app, both(lanes._settings, 0, 1))
    places = [cast("Place", place) for place in lanes._slots.values()]
    ending = asyncio.create_task(lanes.stop(0))
    await eventually(lambda: all(place.closing.is_set() for place in places))
    # The next owner of a partition may begin as soon as the group is left.
    assert left == []
    for place in places:
        place.may_close.set()
    await ending
    assert left == [lanes.app]
    # What was on its way to another worker is not let go once more.
    assert not lanes.joined.is_set()


async def test_a_record_of_a_partition_that_was_revoked_opens_no_lane(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    lanes = lanes_of_places(settings)
    mine = both(settings, 1)
    lanes.app.consumer = SimpleNamespace(assignment=lambda: mine)
    assert lanes._slot_for_stray(TP(settings.topic(REQUESTS.name), 0)) is None
    assert lanes._slots == {}
    assert lanes._slot_for_stray(TP(settings.topic(REQUESTS.name), 1)) is lanes._slots[1]


async def test_a_lane_starts_only_when_its_partition_came_of_all_input_topics(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path)
    lanes = lanes_of_places(settings)
    alone = TP(settings.topic(REQUESTS.name), 1)
    await lanes._assigned(lanes.app, both(settings, 0) | {alone})
    assert sorted(lanes._slots) == [0]


async def test_worker_is_not_ready_where_no_broker_answers_and_says_so(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    lanes = lanes_of_places(settings)
    deal(lanes, [0], wanted=[])
    await lanes._assigned(lanes.app, both(settings, 0))
    assert lanes.unready() is None
    place: Place = lanes._slots[0]  # type: ignore[assignment]
    place.committing_s = 7.0
    assert lanes.unready() == "no commit has ended for 7 s on partitions 0"
    place.committing_s = 0.0
    lanes._membership.evicted()
    assert "coordinator has not answered" in str(lanes.unready())
    stale = {TP("requests", 0): 6.0}
    lanes._freshness.stale = lambda: stale  # type: ignore[method-assign]
    assert "no broker has answered for 6 s" in str(lanes.unready())
    place.may_close.set()


async def test_a_lane_that_is_wanted_elsewhere_is_closed_let_go_and_opened_anew_if_it_comes_back(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path)
    lanes = lanes_of_places(settings)
    deal(lanes, [0, 1], wanted=[1])
    await lanes._assigned(lanes.app, both(settings, 0, 1))
    wanted: Place = lanes._slots[1]  # type: ignore[assignment]
    await eventually(wanted.closing.is_set)
    assert not lanes.joined.is_set()
    wanted.may_close.set()
    await lanes.joined.wait()
    assert lanes._assignor.given_back == {1}
    assert lanes._slots[1] is wanted  # it takes what still comes, and serves nothing
    assert lanes.unready() is None
    deal(lanes, [0, 1], wanted=[])  # there was nobody else any more
    await lanes._assigned(lanes.app, both(settings, 0, 1))
    assert lanes._slots[1] is not wanted
    await lanes._handover.stop()


async def test_a_worker_that_stops_opens_nothing_when_the_group_deals_once_more(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path)
    lanes = lanes_of_places(settings)
    await lanes._assigned(lanes.app, both(settings, 0))
    place: Place = lanes._slots[0]  # type: ignore[assignment]
    stopping = asyncio.create_task(lanes.stop(0))
    await eventually(place.closing.is_set)
    # Another member has left meanwhile.
    await lanes._assigned(lanes.app, both(settings, 0, 1, 2))
    assert list(lanes._slots.values()) == [place]
    place.may_close.set()
    await stopping
    assert not lanes._slots


async def test_a_worker_that_waits_no_longer_for_its_lanes_has_its_agents_end_uncrashed(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path)
    lanes = lanes_of_places(settings)
    await lanes._assigned(lanes.app, both(settings, 0))
    place: Place = lanes._slots[0]  # type: ignore[assignment]
    stopping = asyncio.create_task(lanes.stop(0))
    await eventually(place.closing.is_set)
    assert not any(agent.should_stop for agent in lanes.agents)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    # Faust takes a cancel of any other for a crash, and tells it with a traceback.
    assert all(agent.should_stop for agent in lanes.agents)
    place.may_close.set()


async def test_a_slot_is_told_that_nothing_is_committed_also_where_it_is_opened_later(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path)
    lanes = lanes_of_places(settings)
    topic = settings.topic(REQUESTS.name)
    # Faust lets records through before it tells of the assignment.
    lanes.app.on_gap(OffsetGap(topic, 0, stood_at=None, read_from=0))
    await lanes._assigned(lanes.app, both(settings, 0))
    place: Place = lanes._slots[0]  # type: ignore[assignment]
    lanes._tell_of_gaps(0, place)  # type: ignore[arg-type]
    assert place.coming_again == [topic]
    lanes.app.on_gap(OffsetGap(topic, 0, stood_at=None, read_from=0))
    assert place.coming_again == [topic, topic]
    # Nothing is committed while the lane catches up; commands do not wait for that.
    control = settings.topic(CONTROL.name)
    assert not lanes.app.may_commit(TP(topic, 0))
    assert lanes.app.may_commit(TP(topic, 1))
    assert lanes.app.may_commit(TP(control, 0))
    # Whether it was there before, only its lane can tell.
    assert lanes._services.gaps.told() == []
    place.may_close.set()
