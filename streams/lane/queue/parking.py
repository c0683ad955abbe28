"""Parking runs: their whole requests go to the log, so that their records need not be kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial

import structlog

from millstream.agents.loop.calls import Calls
from millstream.schemas.base import NO_USAGE, CallUsage, Event, Usage, compound_key
from millstream.schemas.errors import Poison, UnknownTemplate
from millstream.schemas.events import Decision
from millstream.schemas.lane_events import HoldPlaced, RunParked, TemplateWait
from millstream.schemas.topics import HOLDS, PARKED
from millstream.streams.broker.compacted import newest_of_each
from millstream.streams.broker.partition_reader import PartitionReader
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.output import outcomes
from millstream.streams.lane.output.writer import Committed, LaneWriter
from millstream.streams.lane.queue.parked_log import ParkedLog
from millstream.streams.lane.queue.waiting_line import ForTemplate, Ticket, Wait
from millstream.streams.lane.queue.waits import wait_of
from millstream.streams.lane.runs.admission import (
    Admission,
    TemplateRef,
    admit,
    told_of_repair,
)
from millstream.streams.lane.runs.run import ActiveTime, Run
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.lane.state.pauses import Pauses, expiry_reason, kept_ms
from millstream.streams.transactions.committer import CommitRefused
from millstream.streams.wire.codec import Tombstone, decode
from millstream.streams.wire.keys import RequestKey
from millstream.streams.wire.trace import Trace

log = structlog.get_logger(__name__)


CALLS_KEPT_MAX = 256
"""Runs with effects that left memory, of which a lane keeps what their calls gave."""

EFFECTS_NAMED_MAX = 32


class Parking:
    """Parks the requests of one lane on the log, and reads them back."""

    def __init__(
        self,
        context: LaneContext,
        *,
        state: LaneState,
        writer: LaneWriter,
        reader: PartitionReader,
        pauses: Pauses,
    ) -> None:
        self._settings = context.settings
        self._group_templates = context.services.group_templates
        self._services = context.services
        self._state = state
        self._writer = writer
        self._reader = reader
        self._pauses = pauses
        self._holds_at = context.at(HOLDS)
        self._records = ParkedLog(reader, context.at(PARKED))
        self._taken_over_ms = 0
        # Of runs that leave memory, as one that is paused does: it spares a look at their journals.
        self._calls: OrderedDict[RequestKey, Calls] = OrderedDict()

    async def restore(self) -> list[Ticket]:
        """Fold what is paused; give a ticket for each request that is parked, in order.

        Raises `LaneLost` or `ServiceUnavailable`.
        """
        paused = await newest_of_each(
            self._reader,
            self._holds_at,
            lambda record: (decode(record, HoldPlaced), record.timestamp),
        )
        self._taken_over_ms = self._services.clock_ms()
        tickets = []
        for offset, head in await self._records.open_set():
            asked = head.decision.request_digest
            self._state.park(head.key, asked, is_decided=not head.undecided)
            stands_at: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            stands_at.set_result(offset)
            tickets.append(
                Ticket(
                    *(head.key, head.session, head.order, stands_at, wait_of(head)),
                    template=head.request.template,
                    restored=True,
                    journal_ms=head.journal_ms,
                )
            )
        await asyncio.gather(*(self._take_over(*placed) for _, placed in paused))
        return tickets

    async def _take_over(self, hold: HoldPlaced, placed_ms: int) -> None:
        before_ms = self._taken_over_ms - kept_ms(self._settings.retention)
        why = expiry_reason(hold, placed_ms, self._state, before_ms=before_ms)
        if why is None:
            self._pauses.add(hold)
            return
        log.info("a pause lapses", request_id=hold.request_id, user_id=hold.user_id, reason=why)
        await self._writer.commit([Tombstone(HOLDS, hold.record_key)])

    def park(self, run: Run) -> asyncio.Future[int]:
        """Commit a run's request as it stands, and acknowledge its record then.

        Gives the offset at which it is parked; done at once if it is parked as it stands already.
        The future raises `CommitRefused` for a run that no record can hold: it cannot wait.
        """
        if run.is_kept and run.parked is not None:
            return run.parked
        run.parked = parked = asyncio.get_running_loop().create_future()
        run.parked_progress = run.progress
        request, admission = run.request, run.admission
        decided = admission.decision
        # It may have begun before what the lane reads back, and not be looked for yet.
        begins_from, steps = run.journalled
        if (journal := self._state.journals.open.get(run.key)) is not None:
            steps = max(steps, journal.steps)
            if journal.begins_from is not None:
                begins_from, run.journal_ms = journal.begins_from, journal.began_ms
        if steps:
            run.journal_ms = run.journal_ms or 0
        event = RunParked(
            tenant=request.tenant,
            user_id=request.user_id,
            request_id=request.request_id,
            session_id=request.session_id,
            at_ms=self._services.clock_ms(),
            request=request,
            # Whoever knows no waits takes the refusal for the decision that it was before.
            decision=decided or self._refusal(run),
            undecided=decided is None,
            template_version=admission.version,
            waits_for=_wanted(admission.lacks, run.lacks_since_ms),
            order=run.order,
            reserved_micros=admission.reserved_micros,
            tries=run.tries,
            failures=run.failures,
            spent=sum((one.usage for one in run.spent if one.model is None), NO_USAGE),
            spent_on=_spent_on(run.spent),
            failure=run.failure,
            not_before_ms=run.not_before_ms,
            elapsed_ms=run.under_way.elapsed_ms,
            since_ms=run.under_way.since_ms,
            effects=run.calls.with_effect[:EFFECTS_NAMED_MAX],
            repairs=run.repairs,
            repair=run.calls.repair,
            journal_from=begins_from,
            journal_from_ms=run.journal_ms or 0,
            journal_steps=steps,
        )
        if run.calls.with_effect:
            self._calls[run.key] = run.calls
            self._calls.move_to_end(run.key)
            if len(self._calls) > CALLS_KEPT_MAX:
                self._calls.popitem(last=False)
        committed = self._writer.submit([event], run.traceparent)
        committed.add_done_callback(partial(self._is_parked, run, parked))
        return parked

    def tell_of_wait(self, run: Run, before: asyncio.Future[int]) -> asyncio.Future[int]:
        """Have the log say what a parked run waits for; gives where its newest record stands.

        That is where it stood `before`, if the log does so already or no record can hold it.
        """
        if run.admission.decision is None or run.is_kept:
            return before
        stands_at: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def told(parked: asyncio.Future[int]) -> None:
            error = parked.exception()
            if error is None:
                stands_at.set_result(parked.result())
            elif isinstance(error, CommitRefused):
                stands_at.set_result(before.result())
            else:
                stands_at.set_exception(error)
                stands_at.exception()  # a lost lane is told by its committer

        self.park(run).add_done_callback(told)
        return stands_at

    async def read(self, ticket: Ticket) -> tuple[RunParked, Trace] | None:
        """Read the record of a parked request, and its trace.

        Gives `None` for one that could not be parked, or cannot be read here: the latter is left
        on the log to a newer worker. Raises `LaneLost`.
        """
        try:
            return await self._records.load(await ticket.stands_at)
        except CommitRefused:
            return None
        except Poison as poison:
            log.warning("a parked request cannot be read", key=ticket.key, reason=str(poison))
            return None

    def replace(
        self, ticket: Ticket, parked: RunParked, traceparent: Trace, beside: Sequence[Event]
    ) -> Committed:
        """Commit another record of a parked request, with what goes with it.

        `ticket` has its place at once; where no record can hold it that is what it was. Raises as
        `LaneWriter.submit` does.
        """
        before = ticket.stands_at
        ticket.stands_at = stands_at = asyncio.get_running_loop().create_future()
        # Its journal says what else they stand for now.
        self._calls.pop(ticket.key, None)

        def told(committed: Committed) -> None:
            error = committed.exception()
            if error is None:
                offset = committed.result()[0]
                self._records.written(offset)
                stands_at.set_result(offset)
            elif isinstance(error, CommitRefused):
                stands_at.set_result(before.result())
            else:
                stands_at.set_exception(error)
                stands_at.exception()  # a lost lane is told by its committer

        committed = self._writer.submit([parked, *beside], traceparent)
        committed.add_done_callback(told)
        return committed

    async def load(self, ticket: Ticket) -> Run | None:
        """Read a parked request back, with the plan of its run; gives `None` as `read` does.

        `Run.parked` is where its record stood then. Raises `LaneLost`.
        """
        stands_at = ticket.stands_at
        read = await self.read(ticket)
        if read is None:
            return None
        parked, traceparent = read
        decided = parked.decided
        reserved_before = parked.reserved_micros - (decided.reserved_micros if decided else 0)
        if decided is None and ticket.key not in self._state.decided:
            # Nothing is decided on what may be cancelled, or paused, before its turn has come.
            lacks = TemplateRef(parked.request.template, parked.template_version)
            admission = Admission(
                None, False, None, None, reserved_micros=reserved_before, lacks=lacks
            )
        else:
            admission = admit(
                parked.request,
                self._state,
                self._services.factory,
                input_bytes_max=self._settings.input_bytes_max,
                reserved_before_micros=reserved_before,
                decided=decided,
                version=parked.template_version,
            )
            if parked.repair is not None:
                admission = told_of_repair(admission)
        under_way = ActiveTime(parked.elapsed_ms, parked.since_ms)
        if ticket.restored:
            # Nobody knows when its last owner was lost; since this one is here it only waits.
            under_way.stop(self._taken_over_ms)
        run = Run(
            request=parked.request,
            admission=admission,
            traceparent=traceparent,
            order=parked.order,
            may_follow=ticket.restored or ticket.may_follow or parked.tries > 0,
            # Attempts are numbered within a generation: a new owner's are higher by that.
            tries=0 if ticket.restored else parked.tries,
            failures=parked.failures,
            repairs=parked.repairs,
            spent=_spent_by(parked),
            failure=parked.failure,
            under_way=under_way,
            parked=stands_at,
            journalled=(parked.journal_from, parked.journal_steps),
            journal_ms=parked.journal_from_ms if parked.journal_steps else None,
            calls=self._calls.get(ticket.key)
            or Calls(forgotten=parked.effects, repair=parked.repair),
            lacks_since_ms=_lacks_since_ms(ticket, parked),
        )
        if not parked.undecided:
            run.parked_progress = run.progress
        return run

    def admit(self, run: Run) -> None:
        """Decide on a run that was parked undecided, or look again for the template it lacked.

        What is decided now is folded now: submit it in the same tick.
        """
        before = run.admission
        reserved = before.decision.reserved_micros if before.decision else 0
        run.admission = admit(
            run.request,
            self._state,
            self._services.factory,
            input_bytes_max=self._settings.input_bytes_max,
            reserved_before_micros=before.reserved_micros - reserved,
            decided=before.decision,
            version=before.version,
            knows_session=lambda: self._state.knows(run.session),
        )

    def _refusal(self, run: Run) -> Decision:
        name = run.request.template
        why_not = self._group_templates.why_not(name, run.admission.version)
        message = f"no template is called {name!r} here"
        if why_not is not None:
            message = f"template {name!r} cannot be run here: {why_not}"
        return outcomes.refusal(
            run.request,
            UnknownTemplate(message),
            stage=self._state.stage,
            generation=self._state.generation,
        )

    def tombstones(self, run: Run) -> list[Tombstone]:
        """Give what the compacted topics are to forget with a run's result."""
        self._calls.pop(run.key, None)
        gone = self._pauses.lift(run.key)
        if run.parked is not None:
            gone.append(Tombstone(PARKED, compound_key(*run.key)))
        return gone

    def _is_parked(
        self,
        run: Run,
        parked: asyncio.Future[int],
        committed: Committed,
    ) -> None:
        error = committed.exception()
        if error is None:
            (offset,) = committed.result()
            self._records.written(offset)
            parked.set_result(offset)
            entry, run.entry = run.entry, None
            if entry is not None:
                entry.finish()
            return
        parked.set_exception(error)
        parked.exception()  # a lost lane is told by its committer
        if isinstance(error, CommitRefused):
            run.parked = None


def _wanted(lacks: TemplateRef | None, since_ms: int) -> TemplateWait | None:
    if lacks is None:
        return None
    return TemplateWait(
        template=lacks.name, version=lacks.version, tools=lacks.tools, since_ms=since_ms
    )


def ticket_of(run: Run, parked: asyncio.Future[int], wait: Wait | None) -> Ticket:
    """Give a run's ticket in the line; `parked` gives the offset of its record."""
    place = (run.key, run.session, run.order, parked, wait, run.template)
    return Ticket(*place, may_follow=run.may_follow, journal_ms=run.journal_ms)


def _lacks_since_ms(ticket: Ticket, parked: RunParked) -> int:
    if isinstance(ticket.wait, ForTemplate):
        return ticket.wait.since_ms
    return 0 if parked.waits_for is None else parked.waits_for.since_ms


def _spent_on(calls: Iterable[CallUsage]) -> dict[str, Usage]:
    spent: dict[str, Usage] = {}
    for one in calls:
        if one.model is not None:
            spent[one.model] = spent.get(one.model, NO_USAGE) + one.usage
    return spent


def _spent_by(parked: RunParked) -> tuple[CallUsage, ...]:
    own = () if parked.spent.is_none else (CallUsage(parked.spent, calls=0),)
    return (*own, *(CallUsage(used, model, calls=0) for model, used in parked.spent_on.items()))
