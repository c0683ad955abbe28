"""A lane: the one owner of an input partition, from a record to its committed outcome.

It fences its predecessor, restores what was committed, announces its generation, and only then
serves. What must be exact leaves in transactions of its own producers; tokens leave at once.
When a commit's outcome is unknown, or a newer owner fenced it, the whole lane is dropped.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog

from millstream.schemas.errors import LaneLost
from millstream.schemas.lane_events import GENERATION_MAX, LaneOpened
from millstream.schemas.ports import BeforeCall
from millstream.schemas.sessions.states import LifecycleState
from millstream.schemas.topics import COMMAND_TOPICS, CONTROL, TopicSpec
from millstream.streams.lane.base.context import LaneContext, LaneServices, Stage
from millstream.streams.lane.base.crash_counter import CrashCounter
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.input.careful_reading import CarefulReading
from millstream.streams.lane.input.reception import RecordDispatcher
from millstream.streams.lane.io import KafkaLaneIO, LaneIO
from millstream.streams.lane.output.in_flight import InFlightRequests
from millstream.streams.lane.output.snapshot_writer import SnapshotWriter
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.overflow.deferrals import Deferrals
from millstream.streams.lane.queue.run_queue import RunQueue
from millstream.streams.lane.runs.admission import TemplateRef
from millstream.streams.lane.sessions.expiry import SessionExpiry
from millstream.streams.lane.state.follower import StageFollower
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.pauses import Pauses
from millstream.streams.lane.state.restore import Restored, producers_announced, restore
from millstream.streams.lane.state.seen_ids import SeenIds
from millstream.streams.settings import Settings
from millstream.streams.transactions.committer import Committer
from millstream.streams.wire.records import InputRecord

log = structlog.get_logger(__name__)


_SNAPSHOT_TIMEOUT_S = 3.0
"""The longest that a lane which is given up waits for its last snapshot."""


class Lane:
    """One incarnation of the owner of `partition` of a stage's input topic.

    `before_call` is awaited before each model and tool call; what it raises ends the lane. `lost`
    is done once the lane can no longer write; then only `close` may be called.
    """

    def __init__(
        self,
        settings: Settings,
        services: LaneServices,
        stage: Stage,
        partition: int,
        *,
        before_call: BeforeCall,
        crash_counter: CrashCounter,
        io: LaneIO | None = None,
    ) -> None:
        self._io = io = io or KafkaLaneIO(settings)
        self._context = context = LaneContext(
            settings, services, stage, partition, before_call, crash_counter, self._failed
        )
        self._state = LaneState(
            stage.name,
            stage.pipeline(),
            hands_over=stage.next is not None,
            seen=SeenIds(ids_max=settings.dedup_ids_max),
            sessions_in_memory=settings.sessions_in_memory,
            retention=settings.retention,
        )
        pauses = Pauses()
        self._command_topics = {settings.topic(one.name) for one in COMMAND_TOPICS}
        self._follower: StageFollower | None = None
        self._following: asyncio.Task[None] | None = None
        self._expiring: asyncio.Task[None] | None = None
        self._reader = io.reader()
        self._committer = Committer(
            lambda number: io.transactional_producer(self._transactional_id(number)),
            producers=settings.transactional_producers,
            records_max=settings.commit_records_max,
            timeout_s=settings.commit_timeout_s,
            gather_s=settings.commit_gather_s,
            on_lost=self.lose,
        )
        self._writer = LaneWriter(
            context, state=self._state, committer=self._committer, reader=self._reader
        )
        self._hanging = io.hanging(self._writer.places)
        self._snapshots = SnapshotWriter(
            settings,
            partition,
            state=self._state,
            writer=self._writer,
            committer=self._committer,
            followed=lambda: {} if self._follower is None else self._follower.positions,
            clock_ms=services.clock_ms,
        )
        self._writer.watch(self._snapshots.consider)
        in_flight = InFlightRequests(
            state=self._state, writer=self._writer, clock_ms=services.clock_ms
        )
        self._queue = RunQueue(
            context,
            state=self._state,
            writer=self._writer,
            in_flight=in_flight,
            reader=self._reader,
            pauses=pauses,
        )
        self._dispatcher = RecordDispatcher(
            context,
            state=self._state,
            writer=self._writer,
            in_flight=in_flight,
            queue=self._queue,
            pauses=pauses,
            reader=self._reader,
        )
        self._reading = CarefulReading(
            context,
            tell=lambda opened: self._writer.commit([opened]),
            take=lambda entry, is_behind: self._try(partial(self._arrived, is_behind), entry),
            bury=self._dispatcher.bury,
            is_buried=self._state.is_buried,
            ended=self._ended,
        )
        self._deferrals = Deferrals(
            context,
            state=self._state,
            writer=self._writer,
            reader=self._reader,
            queue=self._queue,
            reading=self._reading,
            take_in=partial(self._try, self._dispatcher.take_in),
        )
        self._expiry = SessionExpiry(
            context,
            state=self._state,
            reader=self._reader,
            writer=self._writer,
            is_on=self._dispatcher.desk.is_on,
            is_deferred=self._deferrals.has,
            taken_in=lambda: self._dispatcher.taken_in,
        )
        self._dispatcher.desk.on_change = self._expiry.watch
        self._dispatcher.desk.is_used = self._expiry.is_used
        self.has_waiting: Callable[[], bool] = lambda: False
        """Tells whether records wait for it: it is then restored before others of its worker."""
        self.lost: asyncio.Future[LaneLost] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Fence, restore, announce. Raises `LaneLost` or `ServiceUnavailable`."""
        started_ms = self._context.services.clock_ms()
        await self._committer.start()
        self._fenced(self._context.settings.transactional_producers)
        await self._reader.start()
        async with self._hanging.watched():
            restored = await self._open(started_ms)
        log.info(
            "lane open",
            stage=self._context.stage.name,
            partition=self._context.partition,
            generation=self._state.generation,
            records_restored=restored.records,
            from_snapshot=restored.snapshot is not None,
            folded_anew=restored.refolded,
            duration_ms=self._context.services.clock_ms() - started_ms,
        )

    async def _open(self, started_ms: int) -> Restored:
        # A predecessor that had more of them could write on with those that this lane has not.
        announced = await producers_announced(
            self._reader,
            self._context.settings,
            stage=self._context.stage.name,
            partition=self._context.partition,
        )
        await self._committer.fence_up_to(announced)
        self._fenced(max(announced, self._context.settings.transactional_producers))
        if self._context.stage.next is None:
            await self._deferrals.restore()
        restored = await restore(
            self._state,
            self._reader,
            self._context.settings,
            partition=self._context.partition,
            now_ms=started_ms,
            turn=self._context.services.turns.turn(
                lambda: self.has_waiting() or bool(self._state.parked)
            ),
            crash_counter=self._context.crash_counter,
        )
        self._context.services.metrics.history_gone.inc(len(restored.gone))
        await self._writer.open(restored.ends)
        where, commands = self._context.at(self._context.stage.input), self._context.at(CONTROL)
        inputs = {one.name: self._context.at(one) for one in self._inputs}
        ends = await self._reader.high_watermarks({*inputs.values(), commands})
        self._dispatcher.open(new_from_offset=ends[where], new_commands_from=ends[commands])
        if self._state.pipeline.needs:
            self._follower = StageFollower(
                self._state,
                self._context.settings,
                self._context.partition,
                restored.ends,
                consumer=self._io.consumer(),
            )
            self._following = asyncio.create_task(self._follower.run())
            self._following.add_done_callback(self._ended)
        opened = LaneOpened(
            stage=self._context.stage.name,
            partition=self._context.partition,
            generation=min(self._state.generation + 1, GENERATION_MAX),
            worker=self._context.services.worker,
            producers=self._context.settings.transactional_producers,
            policy_digest=self._context.services.policy_digest,
            at_ms=self._context.services.clock_ms(),
        )
        before = self._state.reading
        opened = opened.model_copy(update={"reading": before or None})
        await self._writer.commit([opened])
        self._reading.open(opened, before, {name: ends[one] for name, one in inputs.items()})
        self._snapshots.open(restored)
        if self._context.stage.next is None:
            self._deferrals.open(ends[where])
            await self._queue.open()
            self._deferrals.begin()
            self._expiry.open()
            self._expiring = asyncio.create_task(self._expiry.run(), name="session expiry")
            self._expiring.add_done_callback(self._ended)
        return restored

    @property
    def _inputs(self) -> tuple[TopicSpec, ...]:
        """The topics that the lane takes records of."""
        commands = COMMAND_TOPICS if self._context.stage.next is None else ()
        return (self._context.stage.input, *commands)

    def _transactional_id(self, number: int) -> str:
        context = self._context
        return f"{context.settings.namespace}-{context.stage.name}-{context.partition}-{number}"

    def _fenced(self, producers: int) -> None:
        """Take note that no earlier owner's producer of these can be alive."""
        self._hanging.fenced = frozenset(map(self._transactional_id, range(producers)))

    async def drain(self, timeout_s: float) -> bool:
        """Begin no more runs; wait until what is under way is committed, at most `timeout_s`.

        Runs that wait are left to the next owner. Gives whether all ended; then what the lane
        knows is what it committed.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        self._reading.drain()
        self._queue.drain()
        self._deferrals.drain()
        while tasks := self._dispatcher.tasks | self._queue.tasks | self._dispatcher.desk.tasks:
            left_s = deadline - loop.time()
            if left_s <= 0:
                return False
            await asyncio.wait(tasks, timeout=left_s)
        return True

    async def close(self, *, snapshot: bool = True) -> None:
        """Drop everything: runs are cancelled, what was not committed never happened.

        Unless it is lost or `snapshot` is false, it leaves its successor a last snapshot.
        """
        # Whoever waits for `lost` and is cancelled cancels it: then the lane is not lost.
        if snapshot and (not self.lost.done() or self.lost.cancelled()):
            await self._snapshots.close(_SNAPSHOT_TIMEOUT_S)
        self._snapshots.cancel()
        beside = (self._following, self._expiring)
        tasks = {
            *self._reading.tasks,
            *self._dispatcher.tasks,
            *(one for one in beside if one is not None),
        }
        for task in tasks:
            task.cancel()
        await asyncio.gather(
            *tasks,
            self._deferrals.close(),
            self._dispatcher.desk.close(),
            self._dispatcher.migrations.close(),
            self._queue.close(),
            return_exceptions=True,
        )
        self._reading.close()
        await self._committer.stop()
        self._writer.close()
        await self._reader.stop()

    @property
    def committing_s(self) -> float:
        """For how many seconds a commit has been under way, 0 where none is."""
        return self._committer.committing_s

    @property
    def waiting(self) -> int:
        """How many requests are parked on the log."""
        return self._queue.waiting

    @property
    def sessions(self) -> Counter[LifecycleState | None]:
        """How many sessions of the partition are in each state, as the last stage knows them."""
        is_last = self._context.stage.next is None
        return self._state.session_places.counts if is_last else Counter()

    @property
    def lacking(self) -> dict[TemplateRef, int]:
        """The templates that requests wait for, or are to move to, and how many."""
        return dict(Counter(self._queue.lacking) + self._dispatcher.migrations.lacking)

    @property
    def deferred(self) -> int:
        """How many requests are left where they stand."""
        return len(self._deferrals)

    def wants(self, topic: str) -> bool:
        """Tell whether more of a topic is to be read: commands always are."""
        return topic in self._command_topics or self._deferrals.wants_more()

    async def room(self, topic: str) -> None:
        """Return once more of a topic is to be read, if ever."""
        if topic not in self._command_topics:
            await self._deferrals.room()

    def release_records(self) -> None:
        """Let go of records as soon as can be: no more are read until the first ones are done."""
        self._queue.release_records()

    def serve(self, entry: Entry[InputRecord], *, is_behind: bool = False) -> None:
        """Take one record on its way. Called in offset order; never waits, never raises.

        `is_behind`: many others wait to be read behind it.
        """
        self._reading.serve(entry, is_behind=is_behind)

    def _try(self, step: Callable[[Entry[InputRecord]], None], entry: Entry[InputRecord]) -> None:
        try:
            step(entry)
        # Faust would take an exception for an ack, and the record would be lost.
        except Exception as error:  # noqa: BLE001
            self._failed(error, entry)

    def _arrived(self, is_behind: bool, entry: Entry[InputRecord]) -> None:  # noqa: FBT001
        is_command = self._dispatcher.is_command(entry)
        if is_command or not self._deferrals.defers(entry, is_behind=is_behind):
            self._dispatcher.take_in(entry)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _failed(self, error: BaseException, entry: Entry[InputRecord] | None = None) -> None:
        if entry is not None:
            self._context.crash_counter.count(entry.record.address)
        if isinstance(error, LaneLost):
            self.lose(error)
            return
        log.error("a lane failed", partition=self._context.partition, exc_info=error)
        self.lose(LaneLost(f"the lane failed: {error!r}"))

    def lose(self, lost: LaneLost) -> None:
        """Say that the lane may not write any more; the first reason stands."""
        with suppress(asyncio.InvalidStateError):
            self.lost.set_result(lost)
