"""What a lane is built from: its stage of the chain, and the services of its worker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiokafka import TopicPartition

from millstream.agents.circuits import ModelCircuits
from millstream.agents.executor import RunAgent
from millstream.agents.factory import AgentFactory
from millstream.agents.loop.telling.listeners import Listeners
from millstream.agents.loop.telling.run_states import OnIllegal, raise_illegal
from millstream.middleware.pipeline import CHAIN, MiddlewarePipeline
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.lane_events import StageRequest
from millstream.schemas.ports import BeforeCall, ClockMs, PeekCheckpoint
from millstream.schemas.topics import REQUESTS, TopicSpec, stage_topic
from millstream.streams.consumer.recent_gaps import RecentGaps
from millstream.streams.lane.base.checkpoint_cache import CheckpointCache
from millstream.streams.lane.base.crash_counter import CrashCounter
from millstream.streams.lane.base.group_templates import GroupTemplates
from millstream.streams.lane.base.limits import LaneLimits
from millstream.streams.lane.base.metrics import LaneMetrics
from millstream.streams.lane.base.turns import RestoreTurns
from millstream.streams.settings import Settings
from millstream.streams.wire.records import (
    InputRecord,
    read_request,
    read_stage_request,
    user_of,
    user_of_staged,
)

Intake = Callable[[InputRecord], tuple[ResolvedRequest, StageRequest | None]]
"""Reads an input record of a stage; raises `Poison`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the chain that one kind of lane works on.

    `read` reads a record of its input, `whose` only tells tenant and user id. `pipeline` makes
    this stage's layers anew, with empty state. `next` is the topic to the stage after it, `None`
    where the executor runs.
    """

    name: str
    input: TopicSpec
    read: Intake
    user_of: Callable[[bytes | None], tuple[str, str] | None]
    pipeline: Callable[[], MiddlewarePipeline]
    next: TopicSpec | None


class PlainProducer(Protocol):
    """Sends records outside every transaction, each once and in order; aiokafka's is one.

    All raise `KafkaError`; `send` raises `MessageSizeTooLargeError` for what no request can hold.
    """

    async def send(  # noqa: PLR0917  aiokafka's order
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
    ) -> asyncio.Future[Any]:
        """Hand a record over; gives a future that is done once it is acknowledged."""
        ...

    async def send_and_wait(  # noqa: PLR0917  aiokafka's order
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
    ) -> Any:
        """Send a record; return once it is acknowledged."""
        ...


@dataclass(frozen=True, slots=True)
class LaneServices:
    """What the lanes of one worker share.

    `drain` tells the worker to hand over and end; `chance` gives from 0 up to 1, for jitter.
    `circuits` know which models are out of service, `group_templates` what other workers can run.
    `listeners` are told of runs, `on_illegal` of one whose state changed as it may not. Whoever
    holds `alone` is the one run of the worker that may end it. `gaps` names what was lost of late.
    Whoever holds `reading_alone` is the one lane that says which record it reads, in case that
    ends the worker. `turns` say whose restore goes on. `checkpoints` are those of all lanes in
    memory.
    While `rights` is not set, this user lacks a right on Kafka: no lane opens. `policy_digest`
    stands for the policy, so that others see whether theirs is another.
    """

    worker: str
    producer: PlainProducer
    factory: AgentFactory
    run_agent: RunAgent
    peek_checkpoint: PeekCheckpoint
    clock_ms: ClockMs
    metrics: LaneMetrics
    drain: Callable[[], None]
    limits: LaneLimits = field(default_factory=LaneLimits)
    chance: Callable[[], float] = random.SystemRandom().random
    circuits: ModelCircuits = field(default_factory=ModelCircuits)
    listeners: Listeners = field(default_factory=Listeners)
    on_illegal: OnIllegal = raise_illegal
    group_templates: GroupTemplates = field(default_factory=GroupTemplates)
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    reading_alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    gaps: RecentGaps = field(default_factory=RecentGaps)
    turns: RestoreTurns = field(default_factory=RestoreTurns)
    checkpoints: CheckpointCache = field(default_factory=CheckpointCache)
    rights: asyncio.Event | None = None
    policy_digest: str | None = None


@dataclass(frozen=True, slots=True)
class LaneContext:
    """What every part of one lane is built from.

    Attributes:
        settings: The worker's settings.
        services: What the lanes of the worker share.
        stage: The part of the chain that the lane works on.
        partition: The partition that the lane owns, of every topic.
        before_call: Is awaited before each model and tool call; what it raises ends the lane.
        crash_counter: Counts the lanes that a record has ended; outlives the lane.
        fail: Ends the lane: takes the error that did it.
    """

    settings: Settings
    services: LaneServices
    stage: Stage
    partition: int
    before_call: BeforeCall
    crash_counter: CrashCounter
    fail: Callable[[BaseException], None]

    def at(self, spec: TopicSpec) -> TopicPartition:
        """Give the lane's partition of a topic."""
        return TopicPartition(self.settings.topic(spec.name), self.partition)


def stages(
    chain_cuts: tuple[str, ...], pipelines: Callable[[], tuple[MiddlewarePipeline, ...]]
) -> tuple[Stage, ...]:
    """Give the stages of a chain cut before each layer in `chain_cuts`.

    `pipelines` makes the layers of all stages, in order.
    """
    names = (CHAIN, *chain_cuts)
    topics = (REQUESTS, *(stage_topic(layer) for layer in chain_cuts))
    return tuple(
        Stage(
            name=name,
            input=topics[index],
            read=_read_first if index == 0 else _read_later,
            user_of=user_of if index == 0 else user_of_staged,
            pipeline=lambda index=index: pipelines()[index],  # type: ignore[misc]
            next=topics[index + 1] if index + 1 < len(topics) else None,
        )
        for index, name in enumerate(names)
    )


def _read_first(record: InputRecord) -> tuple[ResolvedRequest, None]:
    return read_request(record), None


def _read_later(record: InputRecord) -> tuple[ResolvedRequest, StageRequest]:
    staged = read_stage_request(record)
    return staged.request, staged
