"""What a lane does with a record: reads it, then serves, obeys, buries, moves or passes it over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog

from millstream.schemas.base import Address, Event
from millstream.schemas.control.commands import ControlCommand
from millstream.schemas.control.migrations import RunMigration
from millstream.schemas.dead_letters import RequestIdReused, Unserviceable
from millstream.schemas.errors import Poison
from millstream.schemas.events import AgentResult, Decision, ResolvedRequest
from millstream.schemas.lane_events import StageRequest
from millstream.schemas.reasons import result_of
from millstream.schemas.sessions.commands import SessionCommand
from millstream.schemas.topics import CONTROL, RUN_MIGRATIONS, SESSION_COMMANDS
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.input.coming_again import ComingAgain
from millstream.streams.lane.input.commands import CommandHandler
from millstream.streams.lane.input.migrations import MigrationDesk
from millstream.streams.lane.input.routing import RecordRouter
from millstream.streams.lane.output import outcomes
from millstream.streams.lane.output.in_flight import InFlightRequests
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.queue.run_queue import RunQueue
from millstream.streams.lane.queue.waits import TemplateWaits
from millstream.streams.lane.runs.admission import Admission, TemplateRef, admit, refused
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.sessions.desk import SessionDesk
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.pauses import Pauses
from millstream.streams.wire.codec import Tombstone, trace_of
from millstream.streams.wire.keys import request_key, session_key
from millstream.streams.wire.partitioning import home_partition
from millstream.streams.wire.records import (
    InputRecord,
    arrived_ms,
    origin_header,
    original_address,
    read_command,
    unreadable_places,
)
from millstream.streams.wire.trace import Trace

CommandT = TypeVar("CommandT", ControlCommand, SessionCommand, RunMigration)

log = structlog.get_logger(__name__)


class RecordDispatcher:
    """Takes the records of one lane on their way: called in offset order, it never waits."""

    def __init__(
        self,
        context: LaneContext,
        *,
        state: LaneState,
        writer: LaneWriter,
        in_flight: InFlightRequests,
        queue: RunQueue,
        pauses: Pauses,
        reader: PartitionReader,
    ) -> None:
        self._context = context
        self._settings = context.settings
        self._services = context.services
        self._stage = context.stage
        self._state = state
        self._writer = writer
        self._in_flight = in_flight
        self._queue = queue
        self._pauses = pauses
        self._template_waits = TemplateWaits.of(context.settings, context.services)
        self._coming_again = ComingAgain(context, state)
        self._router = RecordRouter(context.services, writer=writer)
        self._commands = CommandHandler(
            context.services, writer=writer, queue=queue, in_flight=in_flight, pauses=pauses
        )
        self.desk = SessionDesk(
            context,
            state=state,
            writer=writer,
            queue=queue,
            reader=reader,
            pauses=pauses,
            taken_in=lambda: (self.taken_in, self._taken_ms),
        )
        self.migrations = MigrationDesk(
            context, state=state, writer=writer, in_flight=in_flight, queue=queue
        )
        queue.on_late = lambda run: self._begin(run.request, run.admission, run.request.at_ms)
        self._command_topics: dict[str, Callable[[Entry[InputRecord]], None]] = {
            context.settings.topic(CONTROL.name): self._command,
            context.settings.topic(SESSION_COMMANDS.name): partial(
                self._at_desk, SessionCommand, self.desk.take
            ),
            context.settings.topic(RUN_MIGRATIONS.name): partial(
                self._at_desk, RunMigration, self.migrations.take
            ),
        }
        self.taken_in = 0
        """The offset behind the last request that was taken in here, or stood there before."""
        self._taken_ms = 0
        self._new_from_offset = 0
        self._new_commands_from = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def open(self, *, new_from_offset: int, new_commands_from: int) -> None:
        """Learn from where on no earlier owner can have seen the requests, and the commands."""
        self._new_from_offset = self.taken_in = new_from_offset
        self._new_commands_from = new_commands_from

    def is_command(self, entry: Entry[InputRecord]) -> bool:
        """Tell whether a record stands on a topic of commands."""
        return entry.record.topic in self._command_topics

    def take_in(self, entry: Entry[InputRecord]) -> None:
        """Take one record on its way; what it raises ends the lane."""
        if (given_up := self._context.crash_counter.given_up(entry.record.address)) is not None:
            self._dead_letter_once(entry, given_up)
            return
        for name in unreadable_places(entry.record):
            log.warning("header passed over", name=name, source=str(entry.record.address))
        take = self._command_topics.get(entry.record.topic)
        if take is not None:
            take(entry)
        else:
            self.taken_in = max(self.taken_in, entry.offset + 1)
            self._taken_ms = max(self._taken_ms, entry.record.timestamp)
            self._serve(entry)

    def _command(self, entry: Entry[InputRecord]) -> None:
        first, command = original_address(entry.record), self._read(entry, ControlCommand)
        if command is None:
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
        self._spawn(entry, self._execute(entry, command, first))

    def _at_desk(
        self,
        kind: type[CommandT],
        take: Callable[[Entry[InputRecord], CommandT, Address], None],
        entry: Entry[InputRecord],
    ) -> None:
        first, command = original_address(entry.record), self._read(entry, kind)
        if command is not None and not self._belongs_elsewhere(entry, command.partition_key, first):
            take(entry, command, first)

    def _read(self, entry: Entry[InputRecord], command: type[CommandT]) -> CommandT | None:
        """Read a command; one that cannot be read is buried."""
        try:
            return read_command(entry.record, command)
        except Poison as poison:
            self._dead_letter_once(entry, poison)
            return None

    async def _execute(
        self, entry: Entry[InputRecord], command: ControlCommand, first: Address
    ) -> None:
        may_be_again = entry.offset < self._new_commands_from
        try:
            await self._commands.execute(entry, command, first, may_be_again=may_be_again)
        except Unserviceable as poison:
            await self._router.dead_letter(entry, poison)
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
        if home == self._context.partition:
            return False
        origin = origin_header(first, arrived_ms(entry.record))
        reroute = self._router.reroute(entry, partition_key, home, origin)
        self._spawn(entry, reroute)
        return True

    def _serve(self, entry: Entry[InputRecord]) -> None:
        record = entry.record
        try:
            request, passed = self._stage.read(record)
        except Poison as poison:
            if not (entry.again and self._was_taken_long_ago(entry, None)):
                self._dead_letter_once(entry, poison)
            return
        if entry.again and self._was_taken_long_ago(entry, request):
            return
        if self._belongs_elsewhere(entry, request.partition_key, request.source):
            return
        try:
            is_new = self._in_flight.register(request_key(request), request.digest)
        except RequestIdReused as reused:
            self._dead_letter_once(entry, reused)
            return
        if not is_new:
            self._services.metrics.duplicates.inc()
            entry.finish()
            return
        until_ms = self._state.cancelled.until(session_key(request))
        cancelled = until_ms is not None and arrived_ms(entry.record) <= until_ms
        if self._stage.next is not None:  # the last stage alone knows of runs
            self._admit(entry, request, passed)
        elif cancelled:
            self._end_unread(entry, request, outcomes.CANCELLED)
        elif (met := self.desk.look_over(request, entry.offset, record.timestamp)) is not None:
            self._end_unread(entry, request, met)
        else:
            self._admit(entry, request, passed)

    def _was_taken_long_ago(
        self, entry: Entry[InputRecord], request: ResolvedRequest | None
    ) -> bool:
        """Pass over what comes again, and was served, moved or buried when ids are forgotten."""
        if not self._coming_again.was_taken_long_ago(entry, request):
            return False
        self._services.metrics.duplicates.inc()
        entry.finish()
        return True

    def _end_unread(
        self, entry: Entry[InputRecord], request: ResolvedRequest, how: outcomes.CutOff
    ) -> None:
        """End a request whose session ended before it was read here, with no decision."""
        may_follow = self._may_follow_another(entry)
        result = result_of(
            request,
            at_ms=self._services.clock_ms(),
            status=how.status,
            reason=how.reason,
            # What an earlier attempt showed is void: the newest one has no text.
            attempt=self._state.attempt(0) if may_follow else 0,
        )
        self._end(entry, request, result, trace_of(entry.record))

    def _admit(
        self, entry: Entry[InputRecord], request: ResolvedRequest, passed: StageRequest | None
    ) -> None:
        traceparent = trace_of(entry.record)
        admission = admit(
            request,
            self._state,
            self._services.factory,
            input_bytes_max=self._settings.input_bytes_max,
            reserved_before_micros=passed.reserved_micros if passed else 0,
            version=passed.template_version if passed else None,
            knows_session=self._knows(request),
        )
        if (lacks := admission.lacks) is not None and not self._may_wait(lacks):
            rejection = self._template_waits.in_vain(lacks)
            admission = refused(request, admission, rejection, self._state)
        if admission.refused is not None:
            self._refuse(entry, request, admission, traceparent)
        elif self._stage.next is not None:
            onward = outcomes.stage_request(request, admission.made, passed, self._stage.next)
            events = [admission.made, onward]
            self._spawn(entry, self._in_flight.finish(entry, request, events, traceparent))
        else:
            if not self.desk.is_on(session_key(request)):
                self._begin(request, admission, entry.record.timestamp)
            decided: asyncio.Future[Any] | None = None
            if admission.is_new:
                # An attempt that may cost takes it along, and waits for it.
                decided = self._writer.submit([admission.made], traceparent, lazy=True)
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

    def _knows(self, request: ResolvedRequest) -> Callable[[], bool]:
        if self._stage.next is not None:
            return lambda: True  # the last stage asks
        return lambda: self.desk.is_known(session_key(request))

    def _begin(self, request: ResolvedRequest, admission: Admission, at_ms: int) -> None:
        """Give a session that begins with this request its time to live: template over policy."""
        if admission.plan is None or request.is_sessionless:
            return
        ttl, key = admission.plan.template.session.ttl, session_key(request)
        ttl = ttl.filled_from(self._state.pipeline.session_terms(*key[:2]).ttl)
        if not ttl.is_none and not self._state.knows(key):
            self.desk.begin(key, ttl, at_ms)

    def _may_wait(self, lacks: TemplateRef) -> bool:
        """Tell whether a request waits here for its template: only where runs are, is there a line.

        A stage before that has nowhere to keep what it cannot decide on.
        """
        return self._stage.next is None and self._template_waits.most_s(lacks) > 0

    def _may_follow_another(self, entry: Entry[InputRecord]) -> bool:
        # Tokens leave before anything is committed, so a decision's absence proves nothing.
        return self._state.generation > 1 and entry.offset < self._new_from_offset

    def _refuse(
        self,
        entry: Entry[InputRecord],
        request: ResolvedRequest,
        admission: Admission,
        traceparent: Trace,
    ) -> None:
        result = result_of(
            request,
            at_ms=self._services.clock_ms(),
            status="failed" if admission.made.admitted else "rejected",
            reason=admission.refused,
        )
        decided = [admission.made] if admission.is_new else []
        self._end(entry, request, result, traceparent, decided)

    def _end(
        self,
        entry: Entry[InputRecord],
        request: ResolvedRequest,
        result: AgentResult,
        traceparent: Trace,
        decided: Sequence[Decision] = (),
    ) -> None:
        """End a request without a run."""
        events: list[Event | Tombstone] = [
            *decided,
            *self._in_flight.settlement(request, result),
            *self._pauses.lift(request_key(request)),
        ]
        self._spawn(entry, self._in_flight.finish(entry, request, events, traceparent))

    def bury(self, entry: Entry[InputRecord], poison: Poison) -> None:
        """Write a record's dead letter, unread, and acknowledge it; none if there is one."""
        self._dead_letter_once(entry, poison)

    def _dead_letter_once(self, entry: Entry[InputRecord], poison: Poison) -> None:
        if self._state.is_buried(entry.record.address):
            entry.finish()
        else:
            self._spawn(entry, self._router.dead_letter(entry, poison))

    def _spawn(self, entry: Entry[InputRecord], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._context.crash_counter.guard(entry.record.address, work))
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._context.fail(error)
