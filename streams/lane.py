"""A lane: the one owner of an input partition, from a record to its committed outcome.

It fences its predecessor, restores what was committed, announces its generation, and only then
serves. What must be exact leaves in transactions of its own producers; tokens leave at once.
When a commit's outcome is unknown, or a newer owner fenced it, the whole lane is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from agents.factory import RunPlan
from middleware.base import MiddlewareContext
from schemas.base import Event
from schemas.errors import InputTooLarge, LaneLost, MillstreamError, Poison, Rejected
from schemas.events import (
    ATTEMPTS_PER_GENERATION,
    AgentResult,
    CheckpointSaved,
    CostRecorded,
    Decision,
    LaneOpened,
    ResolvedRequest,
    StageRequest,
)
from schemas.reasons import reason_of
from schemas.topics import (
    CHECKPOINTS,
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    LANES,
    REQUESTS,
    RESULTS,
    SESSIONS,
    TopicSpec,
)
from streams import outcomes
from streams.checkpoints import CheckpointSource
from streams.clients import transactional_producer
from streams.codec import Encoded, encode, traceparent_of
from streams.committer import CommitRefused, Committer, Outgoing
from streams.intake import InputRecord, dead_letter, origin_header
from streams.lane_follow import follow
from streams.lane_parts import LaneServices, Stage
from streams.lane_restore import restore
from streams.lane_state import LaneState, RequestKey, request_key, session_key
from streams.partition_reader import PartitionReader
from streams.partitioning import home_partition
from streams.session_queues import SessionQueues
from streams.settings import Settings
from streams.tokens import TokenPublisher
from streams.window import Entry, Window

log = structlog.get_logger(__name__)

_TOPIC_OF: dict[str, TopicSpec] = {
    spec.event.model_fields["type"].default: spec
    for spec in (RESULTS, DECISIONS, COSTS, CHECKPOINTS, SESSIONS, LANES, DEAD_LETTERS)
}


class Lane:
    """One incarnation of the owner of `partition` of a stage's input topic.

    `lost` is done once the lane can no longer write; then only `close` may be called.
    """

    def __init__(
        self,
        settings: Settings,
        services: LaneServices,
        stage: Stage,
        partition: int,
        window: Window[InputRecord],
    ) -> None:
        self._settings = settings
        self._services = services
        self._stage = stage
        self._partition = partition
        self._window = window
        self._source = f"/{settings.namespace}/{stage.name}/{partition}"
        self._state = LaneState(stage.name, stage.pipeline(), hands_over=stage.next is not None)
        self._in_flight: set[RequestKey] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sessions = SessionQueues(self._failed)
        self._reader = PartitionReader(settings)
        self._committer = Committer(
            [
                transactional_producer(
                    settings, f"{settings.namespace}-{stage.name}-{partition}-{number}"
                )
                for number in range(settings.transactional_producers)
            ],
            records_max=settings.commit_records_max,
            timeout_s=settings.commit_timeout_s,
            on_lost=self._lose,
        )
        checkpoints = TopicPartition(settings.topic(CHECKPOINTS.name), partition)
        self._checkpoints = CheckpointSource(
            reader=self._reader, partition=checkpoints, peek=services.peek_checkpoint
        )
        self._checkpoints_partition = checkpoints
        self._checkpoints_floor = 0
        self.lost: asyncio.Future[LaneLost] = asyncio.get_running_loop().create_future()

    @property
    def generation(self) -> int:
        """The number of this owner, higher than all before it."""
        return self._state.generation

    async def open(self) -> None:
        """Fence, restore, announce. Raises `LaneLost` or `ServiceUnavailable`."""
        started_ms = self._services.clock_ms()
        await self._committer.start()
        await self._reader.start()
        restored = await restore(
            self._state,
            self._reader,
            self._settings,
            partition=self._partition,
            now_ms=started_ms,
        )
        ends = await self._reader.ends([self._checkpoints_partition])
        self._checkpoints_floor = ends[self._checkpoints_partition]
        if self._state.pipeline.needs:
            self._spawn(follow(self._state, self._settings, self._partition, restored.ends))
        self._state.generation += 1
        opened = LaneOpened(
            stage=self._stage.name,
            partition=self._partition,
            generation=self._state.generation,
            worker=self._services.worker,
            at_ms=self._services.clock_ms(),
        )
        await self._committer.submit([self._outgoing(opened, None)])
        log.info(
            "lane open",
            stage=self._stage.name,
            partition=self._partition,
            generation=self._state.generation,
            records_restored=restored.records,
            duration_ms=self._services.clock_ms() - started_ms,
        )

    async def idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs; tell whether that came within `timeout_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while tasks := self._tasks | self._sessions.tasks:
            left_s = deadline - loop.time()
            if left_s <= 0:
                return False
            await asyncio.wait(tasks, timeout=left_s)
        return True

    async def close(self) -> None:
        """Drop everything: runs are cancelled, what was not committed never happened."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, self._sessions.cancel(), return_exceptions=True)
        await self._committer.stop()
        await self._reader.stop()

    def serve(self, entry: Entry[InputRecord]) -> None:
        """Take one record on its way. Called in offset order; never waits."""
        record = entry.record
        try:
            request, passed = self._stage.read(record)
        except Poison as poison:
            if str(record.address) in self._state.buried:
                self._window.done(entry)
            else:
                self._spawn(self._bury(entry, poison))
            return
        home = home_partition(request.partition_key, self._settings.partitions)
        if home != self._partition:
            self._spawn(self._put_right(entry, request, home))
            return
        key = request_key(request)
        if key in self._state.finished or key in self._in_flight:
            self._services.metrics.duplicates.inc()
            self._window.done(entry)
            return
        self._in_flight.add(key)
        self._admit(entry, request, passed, traceparent_of(record))

    def _admit(
        self,
        entry: Entry[InputRecord],
        request: ResolvedRequest,
        passed: StageRequest | None,
        traceparent: bytes,
    ) -> None:
        plan: RunPlan | None = None
        decision = self._state.decided.get(request_key(request))
        committed: asyncio.Future[Any] | None = None
        if decision is None:
            try:
                plan = self._plan(request)
                decision = self._decide(request, plan)
            except Rejected as rejection:
                decision = outcomes.refusal(
                    request, rejection, stage=self._stage.name, generation=self._state.generation
                )
            # Nobody waits for a refusal's decision apart from its result: they go together.
            if decision.admitted and self._stage.next is None:
                committed = self._committer.submit(
                    [self._outgoing(decision, traceparent)], lazy=decision.reserved_micros == 0
                )
        if not decision.admitted:
            rejected = outcomes.result(
                request,
                at_ms=self._services.clock_ms(),
                status="rejected",
                reason=decision.reason,
            )
            events = [decision, *self._settled(request, rejected)]
            self._spawn(self._commit(entry, request, events, traceparent))
        elif self._stage.next is not None:
            onward = outcomes.onward(request, decision, passed, self._stage.next)
            self._spawn(self._commit(entry, request, [decision, onward], traceparent))
        else:
            run_plan = plan or self._plan(request)
            # A call that costs waits for its reservation to be committed.
            wait_for = committed if decision.reserved_micros else None
            self._sessions.submit(
                session_key(request),
                lambda: self._run(entry, request, run_plan, wait_for, traceparent),
            )

    def _plan(self, request: ResolvedRequest) -> RunPlan:
        size_bytes = len(request.input.encode())
        if size_bytes > self._settings.input_bytes_max:
            raise InputTooLarge(
                f"the input has {size_bytes} bytes, more than {self._settings.input_bytes_max}; "
                "shorten it, or raise MILLSTREAM_INPUT_BYTES_MAX on the workers"
            )
        return self._services.factory.plan(request)

    def _decide(self, request: ResolvedRequest, plan: RunPlan) -> Decision:
        context = MiddlewareContext(
            request=request,
            now_ms=request.at_ms,
            model=plan.model,
            output_tokens_max=plan.output_tokens_max,
        )
        return self._state.pipeline.decide(
            context, generation=self._state.generation, stage=self._stage.name
        )

    def _settled(self, request: ResolvedRequest, result: AgentResult) -> list[Event]:
        """Take a result back through the chain: the result to commit, and what goes with it."""
        pipeline = self._state.pipeline
        settlement = pipeline.settle(request, result)
        events: list[Event] = [settlement.result, *settlement.events]
        if not pipeline.needs:  # else they come back from the topics, as another stage's do
            for event in events:
                pipeline.fold(event)
        return events

    async def _run(
        self,
        entry: Entry[InputRecord],
        request: ResolvedRequest,
        plan: RunPlan,
        wait_for: asyncio.Future[Any] | None,
        traceparent: bytes,
    ) -> None:
        if wait_for is not None:
            await wait_for
        tokens = TokenPublisher(
            self._services.producer,
            topic=self._settings.topic("tokens"),
            partition=self._partition,
            source=self._source,
            traceparent=traceparent,
        )
        head = self._state.heads.get(session_key(request))

        async def load_checkpoint() -> CheckpointSaved | None:
            return None if head is None else await self._checkpoints.load(head)

        with self._services.metrics.runs_in_flight.track_inprogress():
            outcome = await self._services.executor.run(
                request,
                plan,
                attempt=self._state.generation * ATTEMPTS_PER_GENERATION,
                load_checkpoint=load_checkpoint,
                emit=tokens.write,
            )
        events = self._settled(request, outcome.result)
        if outcome.checkpoint is not None:
            # Only this lane writes to its partition, so the record cannot stand before the floor.
            floor = self._checkpoints_floor
            events += [
                outcome.checkpoint,
                outcomes.head(outcome.checkpoint, head, offset_min=floor),
            ]
        # The result comes after its tokens: whoever has read the result can read all of them.
        await tokens.flush()
        try:
            await self._commit(entry, request, events, traceparent)
        except CommitRefused as refused:
            failed = outcomes.result(
                request,
                at_ms=self._services.clock_ms(),
                status="failed",
                reason=reason_of(refused),
                attempt=outcome.result.attempt,
                last_seq=outcome.result.last_seq,
                usage=outcome.result.usage,
                model=outcome.result.model,
            )
            spent = [event for event in events if isinstance(event, CostRecorded)]
            await self._commit(entry, request, [failed, *spent], traceparent)

    async def _commit(
        self,
        entry: Entry[InputRecord],
        request: ResolvedRequest,
        events: Sequence[Event],
        traceparent: bytes,
    ) -> None:
        offsets = await self._committer.submit(
            [self._outgoing(event, traceparent) for event in events]
        )
        for event, offset in zip(events, offsets, strict=True):
            self._state.apply(event)
            if isinstance(event, CheckpointSaved):
                self._checkpoints.keep(event)
                self._checkpoints_floor = max(self._checkpoints_floor, offset + 1)
        self._in_flight.discard(request_key(request))
        self._window.done(entry)

    async def _bury(self, entry: Entry[InputRecord], poison: Poison) -> None:
        letter = dead_letter(entry.record, poison, at_ms=self._services.clock_ms())
        log.warning("dead letter", source=str(entry.record.address), reason=str(poison))
        await self._committer.submit([self._outgoing(letter, None)])
        self._state.apply(letter)
        self._window.done(entry)

    async def _put_right(
        self, entry: Entry[InputRecord], request: ResolvedRequest, home: int
    ) -> None:
        # A plain send: only lane `home` may write to partition `home` in a transaction. Sent
        # again after a crash it is the same request, since it keeps the id of its origin.
        record = entry.record
        headers = [pair for pair in record.headers if pair[1] is not None]
        try:
            await self._services.producer.send_and_wait(
                self._settings.topic(REQUESTS.name),
                record.value,
                request.partition_key.encode(),
                home,
                headers=[*headers, origin_header(request)],
            )
        except KafkaError as error:
            raise LaneLost(f"a request could not be put at its partition: {error!r}") from error
        self._services.metrics.put_right.inc()
        self._window.done(entry)

    def _outgoing(self, event: Event, traceparent: bytes | None) -> Outgoing:
        encoded: Encoded = encode(event, source=self._source, traceparent=traceparent)
        if isinstance(event, StageRequest) and self._stage.next is not None:
            spec = self._stage.next
        else:
            spec = _TOPIC_OF[event.type]  # type: ignore[attr-defined]
        return Outgoing(self._settings.topic(spec.name), self._partition, encoded)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, LaneLost):
            self._lose(error)
            return
        known = isinstance(error, MillstreamError)
        log.error("a lane failed", partition=self._partition, exc_info=None if known else error)
        self._lose(LaneLost(f"the lane failed: {error!r}"))

    def _lose(self, lost: LaneLost) -> None:
        with suppress(asyncio.InvalidStateError):
            self.lost.set_result(lost)
