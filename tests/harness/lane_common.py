"""What lanes on Kafka and over a broker in memory share in tests: records, readers, one lane."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiokafka import TopicPartition

from millstream.agents.executor import wall_clock_ms
from millstream.agents.factory import AgentFactory
from millstream.agents.loop.callbacks import OnCallbackEvent
from millstream.agents.models.resolve import resolve_model
from millstream.agents.templates.template import AgentTemplate
from millstream.middleware.pipeline import build_pipeline
from millstream.middleware.policy import Policy
from millstream.schemas.base import Event
from millstream.schemas.events import CheckpointSaved
from millstream.schemas.topics import CONTROL, REQUESTS, TopicSpec
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneServices, Stage, stages
from millstream.streams.lane.base.crash_counter import CrashCounter
from millstream.streams.lane.base.limits import LaneLimits
from millstream.streams.lane.base.metrics import LaneMetrics
from millstream.streams.lane.base.window import Window
from millstream.streams.lane.io import LaneIO
from millstream.streams.lane.lane import Lane
from millstream.streams.settings import Settings
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.wire.codec import decode, encode
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.records import InputRecord
from tests.contracts.log_world import started
from tests.harness.hosting import hosted

__all__ = [
    "OneLane",
    "Upstream",
    "ask",
    "chain_stages",
    "events_of",
    "give",
    "no_redis",
    "one_lane",
    "places_of",
    "records_of",
    "services_of",
    "unended",
    "upstream_of",
    "write_event",
]

EventT = TypeVar("EventT", bound=Event)


NOTHING: Mapping[str, Any] = {}


async def no_redis(_tenant: str, _user_id: str, _session_id: str) -> CheckpointSaved | None:
    """Stand where Redis has nothing: the log must do."""
    return None


@asynccontextmanager
async def services_of(
    settings: Settings,
    producer: Any,
    on_event: OnCallbackEvent | None,
    templates: Iterable[AgentTemplate],
    limits: LaneLimits,
    *,
    of_factory: Mapping[str, Any] = NOTHING,
) -> AsyncIterator[LaneServices]:
    """Give what lanes share; the producer is started here.

    The model is the scripted one, and the tools are built in, unless `of_factory` says otherwise.
    """
    factory = AgentFactory(default_model="scripted", templates=templates, **of_factory)
    resolve = of_factory.get("resolve", resolve_model)
    more: dict[str, Any] = {"on_event": on_event, "coalesce_s": settings.token_coalesce_s}
    async with started(producer), hosted(factory, resolve=resolve, **more) as host:
        yield LaneServices(
            worker="test",
            producer=producer,
            factory=factory,
            run_agent=host.run,
            peek_checkpoint=no_redis,
            clock_ms=wall_clock_ms,
            metrics=LaneMetrics.declare(MetricsCollector()),
            drain=lambda: None,
            limits=limits,
        )


def chain_stages(settings: Settings, policy: Policy | None = None) -> tuple[Stage, ...]:
    """Give the stages of the chain as the settings cut it."""
    cuts = settings.chain_cuts
    return stages(cuts, lambda: build_pipeline(policy).split(cuts))


async def always() -> None:
    """Let every call be made: there is no group to be thrown out of."""


class OneLane:
    """One lane of an uncut chain without a consumer group: a test hands it its records itself.

    Several may be opened over one partition, as by workers of which some sleep.
    """

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.acked: list[int] = []
        self.acked_of: Counter[str] = Counter()
        self._windows: dict[str, Window[InputRecord]] = {}

    def serve(
        self,
        sent: Any,
        value: dict[str, Any],
        *headers: tuple[str, bytes],
        is_behind: bool = False,
    ) -> None:
        """Serve a published record, as it was when it was published."""
        record = InputRecord(
            topic=sent.topic,
            partition=sent.partition,
            offset=sent.offset,
            timestamp=sent.timestamp,
            key=None,
            value=json.dumps(value).encode(),
            headers=headers,
        )

        def ack() -> None:
            self.acked.append(sent.offset)
            self.acked_of[sent.topic] += 1

        window = self._windows.setdefault(sent.topic, Window(1000))
        entry = window.take(sent.offset, record, ack)
        assert entry is not None
        self.lane.serve(entry, is_behind=is_behind)


@asynccontextmanager
async def one_lane(
    settings: Settings,
    services: LaneServices,
    policy: Policy | None,
    *,
    user: str = "ada",
    io: LaneIO | None = None,
) -> AsyncIterator[OneLane]:
    """Open the lane of the partition that a user is at home at, and drop it as a crash does."""
    (stage,) = chain_stages(settings, policy)
    lane = Lane(
        settings,
        services,
        stage,
        home_partition(user, settings.partitions),
        before_call=always,
        crash_counter=CrashCounter(),
        io=io,
    )
    try:
        await lane.open()
        yield OneLane(lane)
    finally:
        await lane.close(snapshot=False)


class Upstream:
    """Publishes requests as a program would that knows nothing of Millstream."""

    def __init__(self, settings: Settings, producer: Any) -> None:
        self._topic = settings.topic(REQUESTS.name)
        self._producer = producer

    async def publish(
        self,
        value: dict[str, Any] | bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        topic: str | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> Any:
        """Publish a value, JSON or raw; gives the record's metadata."""
        raw = json.dumps(value).encode() if isinstance(value, dict) else value
        return await self._producer.send_and_wait(
            topic or self._topic, raw, key=key, partition=partition, headers=list(headers)
        )


@asynccontextmanager
async def upstream_of(settings: Settings, producer: Any) -> AsyncIterator[Upstream]:
    """Connect an upstream by a producer that is started here."""
    async with started(producer):
        yield Upstream(settings, producer)


async def ask(program: Upstream, text: str, **more: Any) -> tuple[Any, dict[str, Any]]:
    """Publish a request `r1` of ada's, unless `more` says otherwise; gives what a lane serves."""
    value = {"user_id": "ada", "request_id": "r1", "input": text, **more}
    return await program.publish(value, key=value["user_id"].encode()), value


async def give(
    settings: Settings, program: Upstream, name: str, **target: str
) -> tuple[Any, dict[str, Any]]:
    """Publish a command of ada's; gives what a lane serves."""
    value = {"user_id": "ada", "command": name, **target}
    return await program.publish(value, key=b"ada", topic=settings.topic(CONTROL.name)), value


async def write_event(settings: Settings, program: Upstream, spec: TopicSpec, event: Event) -> None:
    """Write an event as the lane of its user's partition would."""
    record = encode(event, source="/test")
    partition = home_partition(event.partition_key, settings.partitions)
    await program.publish(
        record.value, key=record.key, partition=partition, topic=settings.topic(spec.name)
    )


def places_of(settings: Settings, spec: TopicSpec) -> list[TopicPartition]:
    """Give a topic's partitions."""
    return [TopicPartition(settings.topic(spec.name), n) for n in range(settings.partitions)]


async def events_of(
    consumer: Any, event: type[EventT], *, count: int, timeout_s: float
) -> list[EventT]:
    """Read on with a consumer that has started until `count` events are there."""
    found: list[EventT] = []
    async with asyncio.timeout(timeout_s):
        while len(found) < count:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [decode(record, event) for record in records]
    return found


async def records_of(reader: PartitionReader, places: Collection[TopicPartition]) -> list[Any]:
    """Read all that is committed now with a reader that is started here."""
    async with started(reader):
        ends = await reader.high_watermarks(places)
        return [record async for record in reader.read(ends)]


def unended(records: Iterable[Any]) -> set[bytes | None]:
    """Give the keys whose newest record is no tombstone."""
    newest = {record.key: record.value for record in records}
    return {key for key, value in newest.items() if value is not None}
