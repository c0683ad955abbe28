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
from aiokafka.errors import KafkaError

from schemas.base import Event
from schemas.errors import LaneLost, Poison, Unserviceable
from schemas.events import (
    ATTEMPTS_PER_GENERATION,
    AgentResult,
    CheckpointSaved,
    CostRecorded,
    LaneOpened,
    ResolvedRequest,
    StageRequest,
)
from schemas.reasons import reason_of
from schemas.topics import REQUESTS, TOKENS
from streams import outcomes
from streams.admission import Admission, admit
from streams.clients import transactional_producer
from streams.codec import traceparent_of
from streams.committer import CommitRefused, Committer
from streams.intake import InputRecord, dead_letter, origin_header
from streams.lane_follow import follow
from streams.lane_output import LaneOutput
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

_FAILURES_MAX = 3
"""Lanes that one record may end by an unforeseen error before it is given up."""


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
        self._state = LaneState(stage.name, stage.pipeline(), hands_over=stage.next is not None)
        self._in_flight: set[RequestKey] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._follower: asyncio.Task[None] | None = None
        self._sessions = SessionQueues(self._failed)
        self._reader = PartitionReader(settings)
        name = f"{settings.namespace}-{stage.name}-{partition}"
        self._committer = Committer(
            lambda number: transactional_producer(settings, f"{name}-{number}"),
            producers=settings.transactional_producers,
            records_max=settings.commit_records_max,
            timeout_s=settings.commit_timeout_s,
            on_lost=self._lose,
        )
        self._output = LaneOutput(
            settings,
            services,
            stage,
            partition,
            state=self._state,
            committer=self._committer,
            reader=self._reader,
        )
        self.lost: asyncio.Future[LaneLost] = asyncio.get_running_loop().create_future()

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
        await self._output.open()
        if self._state.pipeline.needs:
            self._follower = asyncio.create_task(
                follow(self._state, self._settings, self._partition, restored.ends)
            )
            self._follower.add_done_callback(self._ended)
        self._state.generation += 1
        opened = LaneOpened(
            stage=self._stage.name,
            partition=self._partition,
            generation=self._state.generation,
            worker=self._services.worker,
            at_ms=self._services.clock_ms(),
        )
        await self._output.commit([opened])
        log.info(
            "lane open",
            stage=self._stage.name,
            partition=self._partition,
            generation=self._state.generation,
            records_restored=restored.records,
            duration_ms=self._services.clock_ms() - started_ms,
        )

    async def idle(self, timeout_s: float) -> bool:
        """Wait until no record is worked on; tell whether that came within `timeout_s`."""
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
        tasks = {*self._tasks, *([self._follower] if self._follower else [])}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._sessions.cancel(), return_exceptions=True)
        await self._committer.stop()
        await self._reader.stop()

    def serve(self, entry: Entry[InputRecord]) -> None:
        """Take one record on its way. Called in offset order; never waits, never raises."""
        if entry.failures >= _FAILURES_MAX:
            message = (
                f"it ended {entry.failures} lanes by an unforeseen error; see the worker's log"
            )
            self._spawn(entry, self._bury(entry, Unserviceable(message)))
            return
        try:
            self._serve(entry)
        # Faust would take an exception for an ack, and the record would be lost.
        except Exception as error:  # noqa: BLE001
            self._failed(error, entry)

    def _serve(self, entry: Entry[InputRecord]) -> None:
        record = entry.record
        try:
            request, passed = self._stage.read(record)
        except Poison as poison:
            if str(record.address) in self._state.buried:
                self._window.done(entry)
            else:
                self._spawn(entry, self._bury(entry, poison))
            return
        home = home_partition(request.partition_key, self._settings.partitions)
        if home != self._partition:
            self._spawn(entry, self._put_right(entry, request, home))
            return
        key = request_key(request)
        if key in self._state.finished or key in self._in_flight:
            self._services.metrics.duplicates.inc()
            self._window.done(entry)
            return
        self._in_flight.add(key)
        self._admit(entry, request, passed)

    def _admit(
        self, entry: Entry[InputRecord], request: ResolvedRequest, passed: StageRequest | None
    ) -> None:
        traceparent = traceparent_of(entry.record)
        admission = admit(
            request,
            self._state,
            self._services.factory,
            input_bytes_max=self._settings.input_bytes_max,
        )
        if admission.refused is not None:
            self._spawn(entry, self._refuse(entry, request, admission, traceparent))
        elif self._stage.next is not None:
            onward = outcomes.onward(request, admission.decision, passed, self._stage.next)
            events = [admission.decision, onward]
            self._spawn(entry, self._finish(entry, request, events, traceparent))
        else:
            reserves = admission.decision.reserved_micros > 0
            committed: asyncio.Future[Any] | None = None
            if admission.is_new:
                committed = self._output.queue(admission.decision, traceparent, lazy=not reserves)
            # A call that costs waits for its reservation to be committed.
            wait_for = committed if reserves else None
            self._sessions.submit(
                session_key(request),
                lambda: self._blamed(
                    entry, self._run(entry, request, admission, wait_for, traceparent)
                ),
            )

    async def _refuse(
        self,
        entry: Entry[InputRecord],
        request: ResolvedRequest,
        admission: Admission,
        traceparent: bytes,
    ) -> None:
        result = outcomes.result(
            request,
            at_ms=self._services.clock_ms(),
            status="failed" if admission.decision.admitted else "rejected",
            reason=admission.refused,
        )
        decisions = [admission.decision] if admission.is_new else []
        await self._finish(
            entry, request, [*decisions, *self._settled(request, result)], traceparent
        )

    async def _run(
        self,
        entry: Entry[InputRecord],
        request: ResolvedRequest,
        admission: Admission,
        wait_for: asyncio.Future[Any] | None,
        traceparent: bytes,
    ) -> None:
        if wait_for is not None:
            await wait_for
        tokens = TokenPublisher(
            self._services.producer,
            topic=self._settings.topic(TOKENS.name),
            partition=self._partition,
            source=self._output.source,
            traceparent=traceparent,
        )
        head = self._output.head(session_key(request))

        async def load_checkpoint() -> CheckpointSaved | None:
            return None if head is None else await self._output.load_checkpoint(head)

        assert admission.plan is not None  # noqa: S101  what is not refused has a plan
        with self._services.metrics.runs_in_flight.track_inprogress():
            outcome = await self._services.executor.run(
                request,
                admission.plan,
                attempt=self._state.generation * ATTEMPTS_PER_GENERATION,
                load_checkpoint=load_checkpoint,
                emit=tokens.write,
            )
        events = self._settled(request, outcome.result)
        if outcome.checkpoint is not None:
            events += [outcome.checkpoint, self._output.head_of(outcome.checkpoint, head)]
        # The result comes after its tokens: whoever has read the result can read all of them.
        await tokens.flush()
        await self._finish(entry, request, events, traceparent)

    def _settled(self, request: ResolvedRequest, result: AgentResult) -> list[Event]:
        """Take a result back through the chain: the result to commit, and what goes with it."""
        pipeline = self._state.pipeline
        settlement = pipeline.settle(request, result)
        events: list[Event] = [settlement.result, *settlement.events]
        if not pipeline.needs:  # else they come back from the topics, as another stage's do
            for event in events:
                pipeline.fold(event)
        return events

    async def _finish(
        self,
        entry: Entry[InputRecord],
        request: ResolvedRequest,
        events: Sequence[Event],
        traceparent: bytes,
    ) -> None:
        """Commit a request's outcome; if it is too large to be written, that is its outcome."""
        try:
            await self._output.commit(events, traceparent)
        except CommitRefused as refused:
            failed = outcomes.too_large(
                request, events, at_ms=self._services.clock_ms(), reason=reason_of(refused)
            )
            spent = [event for event in events if isinstance(event, CostRecorded)]
            await self._output.commit([failed, *spent], traceparent)
        self._in_flight.discard(request_key(request))
        self._window.done(entry)

    async def _bury(self, entry: Entry[InputRecord], poison: Poison) -> None:
        letter = dead_letter(entry.record, poison, at_ms=self._services.clock_ms())
        log.warning("dead letter", source=str(entry.record.address), reason=str(poison))
        await self._output.commit([letter])
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

    def _spawn(self, entry: Entry[InputRecord], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._blamed(entry, work))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _blamed(self, entry: Entry[InputRecord], work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, and hold an error that ends the lane against the record, unless foreseen."""
        try:
            await work
        except LaneLost:
            raise
        except Exception:
            entry.failures += 1
            raise

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _failed(self, error: BaseException, entry: Entry[InputRecord] | None = None) -> None:
        if entry is not None:
            entry.failures += 1
        if isinstance(error, LaneLost):
            self._lose(error)
            return
        log.error("a lane failed", partition=self._partition, exc_info=error)
        self._lose(LaneLost(f"the lane failed: {error!r}"))

    def _lose(self, lost: LaneLost) -> None:
        with suppress(asyncio.InvalidStateError):
            self.lost.set_result(lost)
