"""Real lanes over a broker in memory: `tests.harness.lanes` without Kafka, by the same names."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from aiokafka import TopicPartition

from millstream.agents.executor import wall_clock_ms
from millstream.agents.loop.callbacks import OnCallbackEvent
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.middleware.policy import Policy
from millstream.schemas.base import Event
from millstream.schemas.lane_events import RunParked
from millstream.schemas.topics import COMMAND_TOPICS, PARKED, TopicSpec, catalogue
from millstream.streams.broker.memory.broker import MemoryBroker
from millstream.streams.broker.memory.clients import MemoryClients
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.renewed_producer import RenewedProducer
from millstream.streams.consumer.membership import Lease, Membership, since_boot_s
from millstream.streams.lane.base.context import LaneServices, Stage
from millstream.streams.lane.base.crash_counter import CrashCounter
from millstream.streams.lane.base.limits import LaneLimits
from millstream.streams.lane.io import LaneIO, MemoryLaneIO
from millstream.streams.lane.lane import Lane
from millstream.streams.lane.slot import LaneSlot
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode
from millstream.streams.wire.records import InputRecord
from tests.contracts.log_world import started
from tests.harness import lane_common
from tests.harness.lane_common import (
    OneLane,
    Upstream,
    ask,
    chain_stages,
    events_of,
    places_of,
    records_of,
    services_of,
    unended,
    upstream_of,
)
from tests.support import eventually

__all__ = [
    "MemoryLanes",
    "OneLane",
    "Upstream",
    "ask",
    "give",
    "lane_services",
    "newest_parked",
    "one_lane",
    "open_keys",
    "read_topic",
    "read_whole",
    "reader",
    "running_lanes",
    "upstream",
    "write_event",
]

EventT = TypeVar("EventT", bound=Event)


class StrictClock:
    """The wall clock in milliseconds, which tells no two records the same time."""

    def __init__(self) -> None:
        self._last_ms = 0

    def __call__(self) -> int:
        """Give the time."""
        self._last_ms = max(self._last_ms + 1, wall_clock_ms())
        return self._last_ms


def _broker() -> MemoryBroker:
    return MemoryBroker(Settings(namespace="memory"), StrictClock())


_QUICK = LaneLimits(look_for_old_every_s=0.01, old_in_a_crowd_s=0.02)
_BEHIND_RECORDS = 100
_READ_RECORDS = 500
_DRAIN_S = 0.1


@dataclass(frozen=True)
class MemoryLanes:
    """A deployment in memory: its settings, its broker, and what its group has acknowledged."""

    settings: Settings = field(default_factory=lambda: Settings(namespace="memory", partitions=4))
    limits: LaneLimits = _QUICK
    broker: MemoryBroker = field(default_factory=_broker)
    acked: dict[TopicPartition, int] = field(default_factory=lambda: defaultdict(int))

    def changed(self, **changes: object) -> MemoryLanes:
        """Give the same deployment with other settings; partitions only before its topics exist."""
        return replace(self, settings=self.settings.model_copy(update=changes))

    def limited(self, **changes: float) -> MemoryLanes:
        """Give the same deployment with other limits inside of its lanes."""
        return replace(self, limits=replace(self.limits, **changes))

    def create_topics(self) -> None:
        """Create all topics that do not exist yet."""
        specs = catalogue(self.settings.chain_cuts)
        self.broker.create_topics(specs, partitions=self.settings.partitions)

    def topic(self, spec: TopicSpec) -> str:
        """Give a topic's physical name."""
        return self.settings.topic(spec.name)

    def places(self, spec: TopicSpec) -> list[TopicPartition]:
        """Give a topic's partitions."""
        return places_of(self.settings, spec)

    def io(self) -> MemoryLaneIO:
        """Give what a lane's clients are made by."""
        return MemoryLaneIO(self.settings, self.broker)


@asynccontextmanager
async def lane_services(
    world: MemoryLanes,
    on_event: OnCallbackEvent | None = None,
    templates: Iterable[AgentTemplate] = BUILT_IN_TEMPLATES,
    **of_factory: Any,
) -> AsyncIterator[LaneServices]:
    """Give what lanes share: topics are there; the rest as `services_of`."""
    world.create_topics()
    producer = RenewedProducer(MemoryClients(world.broker).plain_producer)
    async with services_of(
        world.settings, producer, on_event, templates, world.limits, of_factory=of_factory
    ) as services:
        yield services


def one_lane(
    world: MemoryLanes,
    services: LaneServices,
    policy: Policy | None,
    *,
    user: str = "ada",
    io: LaneIO | None = None,
) -> AbstractAsyncContextManager[OneLane]:
    """Open the lane of the partition that a user is at home at, and drop it as a crash does."""
    return lane_common.one_lane(world.settings, services, policy, user=user, io=io or world.io())


@asynccontextmanager
async def running_lanes(
    world: MemoryLanes,
    policy: Policy | None = None,
    templates: Iterable[AgentTemplate] = BUILT_IN_TEMPLATES,
) -> AsyncIterator[tuple[MemoryStage, ...]]:
    """Run all stages of the chain until the block ends; stopped as a worker stops them."""
    async with lane_services(world, templates=templates) as services:
        chain = chain_stages(world.settings, policy)
        running = tuple(MemoryStage(world, services, stage) for stage in chain)
        try:
            await eventually(lambda: all(one.is_ready for one in running))
            yield running
        finally:
            for one in running:
                await one.stop()


@dataclass(frozen=True)
class Figures:
    """As `millstream.streams.lane.lanes.Figures`."""

    held: int
    waiting: int
    deferred: int
    lost: int


class MemoryStage:
    """All slots of a stage, and what reads for them: `Lanes` without a consumer group."""

    def __init__(self, world: MemoryLanes, services: LaneServices, stage: Stage) -> None:
        self._world = world
        self._services = services
        self._stage = stage
        specs = [stage.input, *(COMMAND_TOPICS if stage.next is None else ())]
        self._topics = [world.topic(spec) for spec in specs]
        numbers = range(world.settings.partitions)
        self._slots = [self._slot(number) for number in numbers]
        self._readers = [asyncio.create_task(self._read(number)) for number in numbers]

    @property
    def is_ready(self) -> bool:
        """Whether all lanes are open."""
        return all(slot.serving for slot in self._slots)

    def figures(self) -> Figures:
        """Count what the lanes hold."""
        return Figures(
            held=sum(map(len, self._slots)),
            waiting=sum(slot.waiting for slot in self._slots),
            deferred=sum(slot.deferred for slot in self._slots),
            lost=sum(slot.lanes_lost for slot in self._slots),
        )

    async def stop(self) -> None:
        """Stop reading, let what runs end within a grace, and close the lanes."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        grace_s = min(self._world.settings.shutdown_grace_s, _DRAIN_S)
        await asyncio.gather(*(slot.drain(grace_s) for slot in self._slots))
        await asyncio.gather(*(slot.close() for slot in self._slots))

    def _slot(self, number: int) -> LaneSlot:
        membership = Membership(3600)
        membership.heard(since_boot_s())
        settings, io = self._world.settings, self._world.io()

        def make(crash_counter: CrashCounter) -> Lane:
            return Lane(
                settings,
                self._services,
                self._stage,
                number,
                before_call=Lease(membership).require,
                crash_counter=crash_counter,
                io=io,
            )

        return LaneSlot(
            make,
            lease=Lease(membership),
            topics=self._topics,
            capacity=settings.runs_in_flight_max,
            fenced_wait_s=settings.session_timeout_s,
            name=f"{self._stage.name}-{number}",
        )

    async def _read(self, number: int) -> None:
        consumer, slot = MemoryClients(self._world.broker).consumer(), self._slots[number]
        places = [TopicPartition(topic, number) for topic in self._topics]
        held_up: set[asyncio.Task[None]] = set()
        await consumer.start()
        consumer.assign(places)
        for where in places:
            consumer.seek(where, self._world.acked[where])
        try:
            while True:
                fetched = await consumer.getmany(timeout_ms=3_600_000, max_records=_READ_RECORDS)
                for where, records in fetched.items():
                    for position, one in enumerate(records):
                        is_behind = len(records) - position > _BEHIND_RECORDS
                        ack = partial(self._ack, where, one.offset)
                        slot.take(InputRecord.of(one), ack, is_behind=is_behind)
                        if slot.full(where.topic):
                            # What was fetched behind it is read again.
                            consumer.seek(where, one.offset + 1)
                            consumer.pause(where)
                            waiting = asyncio.create_task(slot.room(where.topic))
                            waiting.add_done_callback(
                                lambda task, where=where: task.cancelled() or consumer.resume(where)
                            )
                            held_up.add(waiting)
                            break
        finally:
            for task in held_up:
                task.cancel()
            await consumer.stop()

    def _ack(self, where: TopicPartition, offset: int) -> None:
        self._world.acked[where] = max(self._world.acked[where], offset + 1)


def upstream(world: MemoryLanes) -> AbstractAsyncContextManager[Upstream]:
    """Connect an upstream."""
    world.create_topics()
    return upstream_of(world.settings, MemoryClients(world.broker).plain_producer())


async def give(
    world: MemoryLanes, program: Upstream, name: str, **target: str
) -> tuple[Any, dict[str, Any]]:
    """Publish a command of ada's; gives what a lane serves."""
    return await lane_common.give(world.settings, program, name, **target)


async def write_event(world: MemoryLanes, program: Upstream, spec: TopicSpec, event: Event) -> None:
    """Write an event as the lane of its user's partition would."""
    await lane_common.write_event(world.settings, program, spec, event)


async def read_topic(
    world: MemoryLanes, spec: TopicSpec, event: type[EventT], *, count: int, timeout_s: float = 30
) -> list[EventT]:
    """Read a topic from its beginning, committed records only, until `count` events are there."""
    world.create_topics()
    async with started(MemoryClients(world.broker).consumer()) as consumer:
        consumer.assign(world.places(spec))
        return await events_of(consumer, event, count=count, timeout_s=timeout_s)


def reader(world: MemoryLanes) -> PartitionReader:
    """Make a reader of committed records, not started."""
    return world.io().reader()


async def read_whole(world: MemoryLanes, spec: TopicSpec, event: type[EventT]) -> list[EventT]:
    """Read all that is committed on a topic now."""
    return [decode(record, event) for record in await _whole(world, spec)]


async def open_keys(world: MemoryLanes, spec: TopicSpec) -> set[bytes | None]:
    """Give the keys of a compacted topic whose newest record is no tombstone."""
    return unended(await _whole(world, spec))


def newest_parked(world: MemoryLanes) -> RunParked:
    """Give the newest record of a request that waits, by the broker's clock."""
    records = [one for where in world.places(PARKED) for one in world.broker.records(where)]
    kept = [one for one in records if one.value is not None and one.kind == "record"]
    newest = max(kept, key=lambda one: one.timestamp)
    assert newest.value is not None
    return RunParked.model_validate_json(newest.value)


async def _whole(world: MemoryLanes, spec: TopicSpec) -> list[Any]:
    world.create_topics()
    return await records_of(reader(world), world.places(spec))
