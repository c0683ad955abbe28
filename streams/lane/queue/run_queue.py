"""The runs of a lane between admission and their end: so many in memory, the others parked.

A record is acknowledged in the order of its partition, so none may stay for long. A run that has
no room, must wait, or takes its time is parked: its whole request is committed to `parked`, and its
record is acknowledged. Of a session, what is parked came before all that is not: so whoever
takes over has the runs of each session in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from millstream.schemas.base import Event, UserKey
from millstream.schemas.lane_events import HoldPlaced, RunParked
from millstream.schemas.reasons import reason_of
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.base.tasks import LaneTasks
from millstream.streams.lane.output import outcomes
from millstream.streams.lane.output.in_flight import InFlightRequests
from millstream.streams.lane.output.writer import Committed, LaneWriter
from millstream.streams.lane.queue.calling_up import Begin, CallingUp, Ended, WaitOn
from millstream.streams.lane.queue.endings import Endings
from millstream.streams.lane.queue.parking import Parking, ticket_of
from millstream.streams.lane.queue.quotas import UserQuotas
from millstream.streams.lane.queue.renewal.run_renewal import RunRenewal
from millstream.streams.lane.queue.run_table import RunTable
from millstream.streams.lane.queue.session_queues import SessionQueues
from millstream.streams.lane.queue.suspects import Suspects
from millstream.streams.lane.queue.waiting_line import (
    ForTemplate,
    FreedUsers,
    Ticket,
    WaitingLine,
)
from millstream.streams.lane.queue.waits import TemplateWaits, Waits, left_for, wait_of
from millstream.streams.lane.runs.admission import TemplateRef
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.runs.runner import Finished, KeepProgress, Leave, RunRunner
from millstream.streams.lane.runs.telling.run_states import RunStates
from millstream.streams.lane.runs.telling.run_telling import RunTelling
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.pauses import Pauses
from millstream.streams.transactions.committer import CommitRefused
from millstream.streams.wire.keys import RequestKey, SessionKey
from millstream.streams.wire.trace import Trace


class RunQueue:
    """Runs what is admitted, fairly among users, and parks what has to wait."""

    def __init__(
        self,
        context: LaneContext,
        *,
        state: LaneState,
        writer: LaneWriter,
        in_flight: InFlightRequests,
        reader: PartitionReader,
        pauses: Pauses,
    ) -> None:
        self._context = context
        self._settings = context.settings
        self._services = context.services
        self._state = state
        self._writer = writer
        self._in_flight = in_flight
        self._pauses = pauses
        self._draining = False
        self._crowded_at = 0.0
        self._parking = Parking(context, state=state, writer=writer, reader=reader, pauses=pauses)
        self._states = RunStates.of(context.services, pauses)
        self._endings = Endings(
            state=state,
            in_flight=in_flight,
            parking=self._parking,
            states=self._states,
            clock_ms=context.services.clock_ms,
        )
        self.freed = FreedUsers()
        self.on_late: Callable[[Run], None] = lambda _: None  # hears whose template has come
        self._line = WaitingLine(self._is_blocked, self.freed)
        self._waits = Waits(
            context.services,
            TemplateWaits.of(context.settings, context.services),
            pauses,
            lambda ticket: self._unblock(ticket.session),
        )
        self._renewal = RunRenewal(
            context, state=state, writer=writer, parking=self._parking, find=self._line.find
        )
        self._calling_up = CallingUp(
            context,
            state=state,
            writer=writer,
            parking=self._parking,
            endings=self._endings,
            waits=self._waits,
        )
        self._forget_templates = context.services.factory.on_change(self._waits.look_again)
        self._in_memory = RunTable()
        self.quotas = UserQuotas(context.settings, self._line, self._in_memory)
        self._wake = asyncio.Event()
        self._tasks = LaneTasks(context.fail)
        self._sessions = SessionQueues(context.fail)
        self._suspects = Suspects(context.services, state)
        self._runner = RunRunner(
            context,
            state=state,
            writer=writer,
            in_flight=in_flight,
            pauses=pauses,
            telling=RunTelling(context, writer, pauses, self._states),
        )

    async def open(self) -> None:
        """Take over what is parked and paused. Raises `LaneLost` or `ServiceUnavailable`."""
        tickets = await self._parking.restore()
        for ticket in tickets:
            self._in_flight.register(ticket.key, self._state.parked[ticket.key])
            self._line.join(ticket)
            self._watch(ticket)
            self.tell_if_paused(ticket)
        for work in (self._call_up(), self._park_what_is_old(), self._end_cancelled(tickets)):
            self._tasks.spawn(work)
        self._tasks.spawn(self._renewal.run())
        self._wake.set()

    async def close(self) -> None:
        """Cancel everything; nothing is committed any more."""
        self._forget_templates()
        self._waits.close()
        await asyncio.gather(self._tasks.cancel(), self._sessions.cancel(), return_exceptions=True)

    def drain(self) -> None:
        """Begin no run any more; those under way go on."""
        self._draining = True
        self._runner.drain()

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """Give the tasks of runs in memory, one per session."""
        return self._sessions.tasks

    @property
    def waiting(self) -> int:
        """How many requests wait outside memory."""
        return len(self._line)

    @property
    def lacking(self) -> dict[TemplateRef, int]:
        """The templates that requests wait for, and how many do."""
        return self._waits.lacking()

    def park_all_of(self, user: UserKey) -> None:
        """Park what a user has in memory: others of theirs are about to be left on the log."""
        for run in self._in_memory.to_park_of_user(user):
            self._park(run)

    def submit(self, run: Run) -> None:
        """Take an admitted run: it begins, or goes behind what waits already."""
        user, session = run.key[:2], run.session
        lacks, wait = run.admission.lacks, None
        if lacks is not None:
            run.lacks_since_ms = self._services.clock_ms()
            wait = ForTemplate(lacks, run.lacks_since_ms, run.request.deadline_ms)
        waits = wait is not None or self._line.must_queue(user, session) or self._must_wait(run)
        if not waits and self.quotas.has_room(user):
            self._begin(run)
            return
        self.tell_if_paused(run)
        for earlier in self._in_memory.to_park_of_session(session):
            self._park(earlier)
        parked = self._parking.park(run)
        ticket = ticket_of(run, parked, wait)
        self._line.join(ticket)
        self._watch(ticket)
        parked.add_done_callback(partial(self._is_parked, run))
        self._wake.set()

    def release_records(self) -> None:
        """Let go of the records of all but quick runs: others cannot be read before."""
        self._crowded_at = asyncio.get_running_loop().time()

    def find(self, key: RequestKey) -> Run | Ticket | None:
        """Give a request that runs or waits."""
        return self._in_memory.get(key) or self._line.find(key)

    def of_session(self, session: SessionKey) -> tuple[Run | Ticket, ...]:
        """Give the requests of a session that run or wait."""
        waiting = (ticket for ticket in self._line if ticket.session == session)
        return (*self._in_memory.of_session(session), *waiting)

    def sessions_of(self, user: UserKey) -> set[SessionKey]:
        """Give the sessions of which a user's requests run or wait."""
        waiting = (ticket.session for ticket in self._line if ticket.session[:2] == user)
        return {*self._in_memory.sessions_of(user), *waiting}

    async def cancel(
        self, found: Run | Ticket, how: outcomes.CutOff, *, until_ms: int | None = None
    ) -> None:
        """End a request: the model's call is cut off, or never made.

        One that arrived after `until_ms`, the broker's time, goes on. Returns once its result is
        committed.
        """
        if isinstance(found, Run):
            if until_ms is not None and found.request.at_ms > until_ms:
                return
            found.cancelled = how
            if found.executing is not None:
                found.executing.cancel()
            elif not self._in_memory.is_first(found) and not found.ending:
                await self._endings.cut_off(found, how)  # it need not wait for its turn
                self._committed(found)
            await asyncio.shield(found.ended)
            return
        run = await self._parking.load(found)
        if found.gone:  # its turn came meanwhile, and may have passed
            if (again := self.find(found.key)) is not None:
                await self.cancel(again, how, until_ms=until_ms)
            return
        if run is not None and until_ms is not None and run.request.at_ms > until_ms:
            return
        self._remove(found)
        if run is not None:
            await self._endings.cut_off(run, how)

    async def read(self, ticket: Ticket) -> tuple[RunParked, Trace] | None:
        """Read the record of a request that waits; as `Parking.read`."""
        return await self._parking.read(ticket)

    def replace(
        self, ticket: Ticket, parked: RunParked, traceparent: Trace, *beside: Event
    ) -> Committed:
        """Have a request that waits go on by another record, which is committed with `beside`.

        It keeps its place. Raises as `LaneWriter.submit` does.
        """
        committed = self._parking.replace(ticket, parked, traceparent, beside)
        self._waits.change(ticket, wait_of(parked))
        self._unblock(ticket.session)
        return committed

    def tell_if_paused(self, one: Run | Ticket) -> None:
        """Tell listeners of a request that waits for its turn, if it is paused."""
        self._states.waits(one.key, one.session, one.template)

    def on_resumed(self, hold: HoldPlaced) -> None:
        """Let what a lifted hold kept from beginning have its turn."""
        user = (hold.tenant, hold.user_id)
        self._states.lifted(hold)
        if hold.session_id is not None:
            self._unblock((*user, hold.session_id))
        elif (found := self.find((*user, str(hold.request_id)))) is not None:
            self._unblock(found.session)

    async def _drive(self, run: Run) -> None:
        """Let a run go on until its result is committed, or it waits in the line again."""
        if run.ending:  # it was ended before its turn came
            return
        if self._in_memory.is_leaving(run.session) and not run.is_cancelled():
            run.under_way.stop(self._services.clock_ms())
            await self._requeue(run)
            return
        while True:
            match await self._runner.run(run):
                case KeepProgress():
                    self._park(run)
                case Leave():
                    await self._requeue(run)
                    return
                case Finished(events):
                    await self._endings.commit(run, events)
                    self._committed(run)
                    return

    def _must_wait(self, run: Run) -> bool:
        is_paused = self._pauses.is_paused(run.key, run.session)
        return is_paused or self._draining or self._in_memory.is_leaving(run.session)

    async def _requeue(self, run: Run) -> None:
        """Take a run back into the line, at its place in its session."""
        if self._draining:
            return  # its record, or its parked request, is the next owner's
        self._in_memory.leave(run.session)
        parked = self._parking.park(run)
        await asyncio.wait([parked])
        error = parked.exception()
        if isinstance(error, CommitRefused):
            await self._endings.without_attempt(run, "failed", reason_of(error))
        elif run.cancelled is not None:  # while it left
            await self._endings.cut_off(run, run.cancelled)
        else:
            ticket = ticket_of(run, parked, left_for(run))
            self._line.block(ticket)
            self._watch(ticket)
            self._out_of_memory(run)
            return
        self._committed(run)

    def _committed(self, run: Run) -> None:
        self._out_of_memory(run)
        run.ended.set_result(None)

    def _begin(self, run: Run) -> None:
        self._in_memory.add(run)
        source, guard = run.request.source, self._context.crash_counter.guard
        drive = self._suspects.drive
        self._sessions.submit(run.session, lambda: guard(source, drive(run, self._drive)))

    def _out_of_memory(self, run: Run) -> None:
        was_last_to_leave = self._in_memory.remove(run)
        self.freed.add(run.key[:2])
        if was_last_to_leave:
            self._line.unblock(run.session)
        self._wake.set()

    def _is_blocked(self, ticket: Ticket) -> bool:
        return self._in_memory.is_leaving(ticket.session) or self._waits.blocks(ticket)

    async def _call_up(self) -> None:
        """Call into memory whoever is next, while there is room."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (ticket := self._next()) is not None:
                run = await self._parking.load(ticket)
                if run is None:
                    self._line.remove(ticket)
                elif run.parked is ticket.stands_at and self._line.pop(ticket):
                    await self._has_turn(ticket, run)

    def _next(self) -> Ticket | None:
        if self._draining or len(self._in_memory) >= self._settings.runs_in_flight_max:
            return None
        return self._line.next(self.quotas.has_room)

    async def _has_turn(self, ticket: Ticket, run: Run) -> None:
        match await self._calling_up.turn(ticket, run):
            case Begin(is_late):
                if is_late:
                    self.on_late(run)
                self._begin(run)
            case WaitOn(again):
                self._line.block(again)
                self._watch(again)
            case Ended():
                pass

    async def _end_cancelled(self, tickets: Iterable[Ticket]) -> None:
        """End what is parked of sessions whose cancel an earlier owner did not bring to its end."""
        for ticket in tickets:
            if (until_ms := self._state.cancelled.until(ticket.session)) is not None:
                await self.cancel(ticket, outcomes.CANCELLED, until_ms=until_ms)

    def _is_parked(self, run: Run, parked: asyncio.Future[int]) -> None:
        """End a request in the line that is too large to be parked with its decision."""
        refused = None if parked.cancelled() else parked.exception()
        ticket = self._line.find(run.key) if isinstance(refused, CommitRefused) else None
        if ticket is not None and refused is not None:
            self._remove(ticket)
            self._tasks.spawn(self._endings.without_attempt(run, "failed", reason_of(refused)))

    async def _park_what_is_old(self) -> None:
        """Acknowledge the records of runs that take long: others stand behind them."""
        limits, park_after_s = self._services.limits, self._settings.park_after_s
        while True:
            await asyncio.sleep(limits.look_for_old_every_s)
            now = asyncio.get_running_loop().time()
            # Whatever runs since the lane was crowded may hold back those who are not read yet.
            held_back_since = min(self._crowded_at, now - limits.old_in_a_crowd_s)
            for run in self._in_memory.unparked_since(max(now - park_after_s, held_back_since)):
                self._park(run)

    def _park(self, run: Run) -> None:
        """Park a run that stays in memory."""
        self._in_memory.asked_to_park(run)
        # Behind its result, what is parked would be taken for a request that is still open.
        if not run.ending:
            self._parking.park(run)

    # Waiting.

    def _watch(self, ticket: Ticket) -> None:
        self._waits.watch(ticket)
        self._renewal.watch(ticket)

    def _unblock(self, session: SessionKey) -> None:
        self._line.unblock(session)
        self._wake.set()

    def _remove(self, ticket: Ticket) -> None:
        self._line.remove(ticket)
        self._wake.set()
