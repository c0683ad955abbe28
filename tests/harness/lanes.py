"""Lanes on real Kafka inside the test's own loop, an upstream, and a reader of topics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer

from millstream.agents.loop.callbacks import OnCallbackEvent
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.middleware.policy import Policy
from millstream.schemas.base import Event
from millstream.schemas.topics import (
    CONTROL,
    REQUESTS,
    RUN_MIGRATIONS,
    SESSION_COMMANDS,
    TopicSpec,
    catalogue,
)
from millstream.streams.broker.clients import committed_consumer, connecting, idempotent_producer
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.broker.renewed_producer import RenewedProducer
from millstream.streams.broker.rights.users import User
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.base.limits import LaneLimits
from millstream.streams.lane.lanes import Lanes
from millstream.streams.settings import Settings
from millstream.streams.wire.codec import decode
from tests.contracts.log_world import started
from tests.harness.lane_common import (
    OneLane,
    Upstream,
    ask,
    chain_stages,
    events_of,
    give,
    places_of,
    records_of,
    services_of,
    unended,
    upstream_of,
    write_event,
)
from tests.harness.lane_common import one_lane as one_lane_of
from tests.services.users import acting_as
from tests.support import eventually

__all__ = [
    "OneLane",
    "Upstream",
    "ask",
    "give",
    "lane_services",
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


@asynccontextmanager
async def lane_services(
    settings: Settings,
    on_event: OnCallbackEvent | None = None,
    templates: Iterable[AgentTemplate] = BUILT_IN_TEMPLATES,
) -> AsyncIterator[LaneServices]:
    """Give what lanes share: topics are there, the model is the scripted one."""
    await ensure_topics(settings, catalogue(settings.chain_cuts))
    settings = acting_as(settings, "worker")
    producer = RenewedProducer(partial(idempotent_producer, settings))
    async with services_of(settings, producer, on_event, templates, LaneLimits()) as services:
        yield services


@asynccontextmanager
async def running_lanes(
    settings: Settings,
    policy: Policy | None = None,
    templates: Iterable[AgentTemplate] = BUILT_IN_TEMPLATES,
) -> AsyncIterator[tuple[Lanes, ...]]:
    """Run all stages of the chain until the block ends; stopped as a worker stops them."""
    async with lane_services(settings, templates=templates) as services:
        chain = chain_stages(settings, policy)
        settings = acting_as(settings, "worker")
        lanes = tuple(Lanes(settings, services, stage) for stage in chain)
        try:
            await asyncio.gather(*(one.start() for one in lanes))
            await eventually(lambda: all(one.unready() is None for one in lanes), timeout_s=60)
            yield lanes
        finally:
            for one in lanes:
                await one.stop(settings.shutdown_grace_s)


@asynccontextmanager
async def one_lane(
    settings: Settings, services: LaneServices, policy: Policy | None, *, user: str = "ada"
) -> AsyncIterator[OneLane]:
    """Open the lane of the partition that a user is at home at, and drop it as a crash does."""
    async with one_lane_of(acting_as(settings, "worker"), services, policy, user=user) as lane:
        yield lane


class _Producers:
    """Sends requests as the upstream, commands as the operator, and whatever else as `admin`."""

    def __init__(self, settings: Settings) -> None:
        operators = (CONTROL, SESSION_COMMANDS, RUN_MIGRATIONS)
        self._settings = settings
        self._users: dict[str, User] = {
            settings.topic(REQUESTS.name): "upstream",
            **dict.fromkeys((settings.topic(one.name) for one in operators), "operator"),
        }
        self._started: dict[str, AIOKafkaProducer] = {}
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Connect what sends requests; the others once there is something to send."""
        await self._producer(self._settings.topic(REQUESTS.name))

    async def stop(self) -> None:
        """Disconnect all."""
        await self._stack.aclose()

    async def send_and_wait(self, topic: str, *record: Any, **more: Any) -> Any:
        """Send a record as aiokafka's producer does."""
        return await (await self._producer(topic)).send_and_wait(topic, *record, **more)

    async def _producer(self, topic: str) -> AIOKafkaProducer:
        user = self._users.get(topic)
        settings = self._settings if user is None else acting_as(self._settings, user)
        file = str(settings.kafka_config)
        if file not in self._started:
            made = AIOKafkaProducer(**connecting(settings))
            self._started[file] = await self._stack.enter_async_context(started(made))
        return self._started[file]


def upstream(settings: Settings) -> AbstractAsyncContextManager[Upstream]:
    """Connect an upstream, which also writes what others do: as whoever may."""
    return upstream_of(settings, _Producers(settings))


async def read_topic(
    settings: Settings, spec: TopicSpec, event: type[EventT], *, count: int, timeout_s: float = 60
) -> list[EventT]:
    """Read a topic from its beginning, committed records only, until `count` events are there."""
    async with started(committed_consumer(settings)) as consumer:
        consumer.subscribe([settings.topic(spec.name)])
        return await events_of(consumer, event, count=count, timeout_s=timeout_s)


def reader(settings: Settings) -> PartitionReader:
    """Make a reader of committed records, not started."""
    return PartitionReader(settings)


async def read_whole(settings: Settings, spec: TopicSpec, event: type[EventT]) -> list[EventT]:
    """Read all that is committed on a topic now."""
    records = await records_of(reader(settings), places_of(settings, spec))
    return [decode(record, event) for record in records]


async def open_keys(settings: Settings, spec: TopicSpec) -> set[bytes | None]:
    """Give the keys of a compacted topic whose newest record is no tombstone."""
    return unended(await records_of(reader(settings), places_of(settings, spec)))
