"""A lane: the one owner of an input partition, from a record to its committed outcome.

It fences its predecessor, restores what was committed, announces its generation, and only then
serves. What must be exact leaves in transactions of its own producers; tokens leave at once.
When a commit's outcome is unknown, or a newer owner fenced it, the whole lane is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from aiokafka import TopicPartition

from schemas.base import Address, Event
from schemas.errors import LaneLost, Poison, RequestIdReused, Unserviceable
from schemas.events import ControlCommand, LaneOpened, ResolvedRequest, StageRequest
from schemas.ports import BeforeCall
from schemas.topics import CONTROL
from streams import outcomes
from streams.admission import Admission, admit
from streams.blame import Blame
from streams.clients import transactional_producer
from streams.codec import decode, traceparent_of
from streams.committer import Committer
from streams.deferrals import Deferrals
from streams.hanging_transactions import HangingTransactions
from streams.intake import InputRecord, first_place, origin_header
from streams.lane_control import LaneControl
from streams.lane_endings import LaneEndings
from streams.lane_follow import Follower
from streams.lane_output import LaneOutput, Tombstone
from streams.lane_parts import LaneServices, Stage
from streams.lane_restore import Restored, producers_announced, restore
from streams.lane_snapshots import LaneSnapshots
from streams.lane_state import LaneState, request_key
from streams.lane_strays import LaneStrays
from streams.partition_reader import PartitionReader
from streams.partitioning import home_partition
from streams.run import Run
from streams.run_queue import RunQueue
from streams.seen_ids import SeenIds
from streams.settings import Settings
from streams.window import Entry

log = structlog.get_logger(__name__)


_SNAPSHOT_TIMEOUT_S = 5.0
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
        blame: Blame,
    ) -> None:
        self._settings = settings
        self._services = services
        self._stage = stage
        self._blame = blame
        self._new_from_offset = 0
        self._new_commands_from = 0
        self._partition = partition
        self._state = LaneState(
            stage.name,
            stage.pipeline(),
            hands_over=stage.next is not None,
            seen=SeenIds(ids_max=settings.dedup_ids_max),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._follower: Follower | None = None
        self._following: asyncio.Task[None] | None = None
        self._reader = PartitionReader(settings)
        self._control_topic = settings.topic(CONTROL.name)
        self._committer = Committer(
            lambda number: transactional_producer(settings, self._transactional_id(number)),
            producers=settings.transactional_producers,
            records_max=settings.commit_records_max,
            timeout_s=settings.commit_timeout_s,
            gather_s=settings.commit_gather_s,
            on_lost=self.lose,
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
        self._hanging = HangingTransactions(settings, self._output.places)
        self._snapshots = LaneSnapshots(
            settings,
            partition,
            state=self._state,
            output=self._output,
            committer=self._committer,
            followed=lambda: {} if self._follower is None else self._follower.positions,
            clock_ms=services.clock_ms,
        )
        self._output.watch(self._snapshots.consider)
        self._strays = LaneStrays(services, output=self._output)
        self._endings = LaneEndings(
            state=self._state, output=self._output, clock_ms=services.clock_ms
        )
        self._queue = RunQueue(
            settings,
            services,
            partition,
            state=self._state,
            output=self._output,
            endings=self._endings,
            reader=self._reader,
            before_call=before_call,
            blame=blame,
            blamed=lambda run, work: self._blamed(run.request.source, work),
            on_failure=self._failed,
        )
        self._deferrals = Deferrals(
            settings,
            services,
            stage,
            partition,
            output=self._output,
            reader=self._reader,
            queue=self._queue,
            take_in=partial(self._try, self._take_in),
            on_failure=self._failed,
        )
        self._control = LaneControl(
            services,
            output=self._output,
            queue=self._queue,
            endings=self._endings,
        )
        self.lost: asyncio.Future[LaneLost] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Fence, restore, announce. Raises `LaneLost` or `ServiceUnavailable`."""
        started_ms = self._services.clock_ms()
        await self._committer.start()
        self._fenced(self._settings.transactional_producers)
        await self._reader.start()
        async with self._hanging.watched():
            restored = await self._open(started_ms)
        log.info(
            "lane open",
            stage=self._stage.name,
            partition=self._partition,
            generation=self._state.generation,
            records_restored=restored.records,
            from_snapshot=restored.snapshot is not None,
            duration_ms=self._services.clock_ms() - started_ms,
        )

    async def _open(self, started_ms: int) -> Restored:
        # A predecessor that had more of them could write on with those that this lane has not.
        announced = await producers_announced(
            self._reader, self._settings, stage=self._stage.name, partition=self._partition
        )
        await self._committer.fence_up_to(announced)
        self._fenced(max(announced, self._settings.transactional_producers))
        restored = await restore(
            self._state,
            self._reader,
            self._settings,
            partition=self._partition,
            now_ms=started_ms,
        )
        await self._output.open(restored.ends)
        where = TopicPartition(self._settings.topic(self._stage.input.name), self._partition)
        commands = TopicPartition(self._control_topic, self._partition)
        ends = await self._reader.ends([where, commands])
        self._new_from_offset, self._new_commands_from = ends[where], ends[commands]
        if self._state.pipeline.needs:
            self._follower = Follower(self._state, self._settings, self._partition, restored.ends)
            self._following = asyncio.create_task(self._follower.run())
            self._following.add_done_callback(self._ended)
        self._state.generation += 1
        opened = LaneOpened(
            stage=self._stage.name,
            partition=self._partition,
            generation=self._state.generation,
            worker=self._services.worker,
            producers=self._settings.transactional_producers,
            at_ms=self._services.clock_ms(),
        )
        await self._output.commit([opened])
        self._snapshots.open(restored)
        if self._stage.next is None:
            await self._deferrals.open(self._new_from_offset)
            await self._queue.open()
            self._deferrals.begin()
        return restored

    def _transactional_id(self, number: int) -> str:
        return f"{self._settings.namespace}-{self._stage.name}-{self._partition}-{number}"

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
        self._queue.drain()
        self._deferrals.drain()
        while tasks := self._tasks | self._queue.tasks:
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
        tasks = {*self._tasks, *([self._following] if self._following else [])}
        for task in tasks:
            task.cancel()
        await asyncio.gather(
            *tasks, self._deferrals.close(), self._queue.close(), return_exceptions=True
        )
        await self._committer.stop()
        await self._reader.stop()

    @property
    def waiting(self) -> int:
        """How many requests are parked on the log."""
        return self._queue.waiting

    @property
    def deferred(self) -> int:
        """How many requests are left where they stand."""
        return len(self._deferrals)

    def make_room(self) -> None:
        """Let go of records as soon as can be: no more are read until the first ones are done."""
        self._queue.make_room()

    def serve(self, entry: Entry[InputRecord], *, is_behind: bool = False) -> None:
        """Take one record on its way. Called in offset order; never waits, never raises.

        `is_behind`: many others wait to be read behind it.
        """
        self._try(partial(self._arrived, is_behind), entry)

    def _try(self, step: Callable[[Entry[InputRecord]], None], entry: Entry[InputRecord]) -> None:
        try:
            step(entry)
        # Faust would take an exception for an ack, and the record would be lost.
        except Exception as error:  # noqa: BLE001
            self._failed(error, entry)

    def _arrived(self, is_behind: bool, entry: Entry[InputRecord]) -> None:  # noqa: FBT001
        is_control = entry.record.topic == self._control_topic
        if is_control or not self._deferrals.defers(entry, is_behind=is_behind):
            self._take_in(entry)

    def _take_in(self, entry: Entry[InputRecord]) -> None:
        if (given_up := self._blame.verdict(entry.record.address)) is not None:
            self._bury_once(entry, given_up)
        elif entry.record.topic == self._control_topic:
            self._command(entry)
        else:
            self._serve(entry)

    def _command(self, entry: Entry[InputRecord]) -> None:
        try:
            first = first_place(entry.record)
            command = decode(entry.record, ControlCommand)
        except Poison as poison:
            self._bury_once(entry, poison)
            return
        # What concerns a worker stands wherever the worker is.
        if command.command != "drain" and self._belongs_elsewhere(
            entry, command.partition_key, first
        ):
            return
        # A pause that was one too many when it came must not be obeyed now.
        if self._state.is_buried(entry.record.address) or self._state.is_obeyed(command, first):
            entry.finish()
            return
        self._spawn(entry, self._obey(entry, command, first))

    async def _obey(
        self, entry: Entry[InputRecord], command: ControlCommand, first: Address
    ) -> None:
        may_be_again = entry.offset < self._new_commands_from
        try:
            await self._control.obey(entry, command, first, may_be_again=may_be_again)
        except Unserviceable as poison:
            await self._strays.bury(entry, poison)
        else:
            entry.finish()

    def _belongs_elsewhere(
        self,
        entry: Entry[InputRecord],
        partition_key: str,
        first: Address,
    ) -> bool:
        """Send a record that arrived under another key to its user's partition, if it did."""
        home = home_partition(partition_key, self._settings.partitions)
        if home == self._partition:
            return False
        put_right = self._strays.put_right(entry, partition_key, home, origin_header(first))
        self._spawn(entry, put_right)
        return True

    def _serve(self, entry: Entry[InputRecord]) -> None:
        record = entry.record
        try:
            request, passed = self._stage.read(record)
        except Poison as poison:
            self._bury_once(entry, poison)
            return
        if self._belongs_elsewhere(entry, request.partition_key, request.source):
            return
        try:
            is_new = self._endings.begin(request_key(request), request.digest)
        except RequestIdReused as reused:
            self._bury_once(entry, reused)
            return
        if not is_new:
            self._services.metrics.duplicates.inc()
            entry.finish()
            return
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
            reserved_before_micros=passed.reserved_micros if passed else 0,
        )
        if admission.refused is not None:
            self._refuse(entry, request, admission, traceparent)
        elif self._stage.next is not None:
            onward = outcomes.onward(request, admission.decision, passed, self._stage.next)
            events = [admission.decision, onward]
            self._spawn(entry, self._endings.finish(entry, request, events, traceparent))
        else:
            decided: asyncio.Future[Any] | None = None
            if admission.is_new:
                # An attempt that may cost takes it along, and waits for it.
                decided = self._output.submit([admission.decision], traceparent, lazy=True)
            self._queue.submit(
                Run(
                    request,
                    admission,
                    traceparent,
                    order=entry.offset,
                    entry=entry,
                    decided=decided,
                    may_follow=self._may_follow_another(entry),
                )
            )

    def _may_follow_another(self, entry: Entry[InputRecord]) -> bool:
        # Tokens leave before anything is committed, so a decision's absence proves nothing.
        return self._state.generation > 1 and entry.offset < self._new_from_offset

    def _refuse(
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
        gone = self._queue.parking.let_go(request_key(request))
        events: list[Event | Tombstone] = [
            *decisions,
            *self._endings.settled(request, result),
            *gone,
        ]
        self._spawn(entry, self._endings.finish(entry, request, events, traceparent))

    def _bury_once(self, entry: Entry[InputRecord], poison: Poison) -> None:
        if self._state.is_buried(entry.record.address):
            entry.finish()
        else:
            self._spawn(entry, self._strays.bury(entry, poison))

    def _spawn(self, entry: Entry[InputRecord], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._blamed(entry.record.address, work))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _blamed(self, source: Address, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, and hold an error that ends the lane against its record, unless foreseen."""
        try:
            await work
        except LaneLost:
            raise
        except Exception:
            self._blame.hold_against(source)
            raise

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _failed(self, error: BaseException, entry: Entry[InputRecord] | None = None) -> None:
        if entry is not None:
            self._blame.hold_against(entry.record.address)
        if isinstance(error, LaneLost):
            self.lose(error)
            return
        log.error("a lane failed", partition=self._partition, exc_info=error)
        self.lose(LaneLost(f"the lane failed: {error!r}"))

    def lose(self, lost: LaneLost) -> None:
        """Say that the lane may not write any more; the first reason stands."""
        with suppress(asyncio.InvalidStateError):
            self.lost.set_result(lost)
