"""What becomes of a request that waited, as its turn comes: it begins, ends, or waits on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from millstream.schemas.errors import Expired
from millstream.schemas.reasons import reason_of
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.output import outcomes
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.queue.endings import Endings
from millstream.streams.lane.queue.parking import Parking
from millstream.streams.lane.queue.waiting_line import ForTemplate, Ticket
from millstream.streams.lane.queue.waits import Waits
from millstream.streams.lane.runs.admission import refused
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.state.lane_state import LaneState

__all__ = ["Begin", "CallingUp", "Ended", "Turn", "WaitOn"]


@dataclass(frozen=True, slots=True)
class Begin:
    """The run begins, in this tick; `is_late`: its template came after it."""

    is_late: bool = False


@dataclass(frozen=True, slots=True)
class WaitOn:
    """The request goes back to its place in its session, by this ticket, in this tick."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Ended:
    """The request ended without another attempt, and its result is committed."""


Turn = Begin | WaitOn | Ended
"""What became of a request whose turn came."""


class CallingUp:
    """Says of the requests of one lane's queue what becomes of them as their turn comes."""

    def __init__(
        self,
        context: LaneContext,
        *,
        state: LaneState,
        writer: LaneWriter,
        parking: Parking,
        endings: Endings,
        waits: Waits,
    ) -> None:
        self._crash_counter = context.crash_counter
        self._clock_ms = context.services.clock_ms
        self._state = state
        self._writer = writer
        self._parking = parking
        self._endings = endings
        self._waits = waits

    async def turn(self, ticket: Ticket, run: Run) -> Turn:
        """Give what becomes of a run that was loaded and is out of the line. Raises `LaneLost`."""
        if (given_up := self._crash_counter.given_up(run.request.source)) is not None:
            await self._endings.without_attempt(run, "failed", reason_of(given_up))
        elif run.admission.refused is not None:
            await self._endings.without_attempt(run, "failed", run.admission.refused)
        elif self._state.cancelled.covers(run.session, run.request.at_ms):
            await self._endings.cut_off(run, outcomes.CANCELLED)
        elif run.admission.lacks is not None:
            return await self._look_for_its_template(ticket, run)
        else:
            return Begin()
        return Ended()

    async def _look_for_its_template(self, ticket: Ticket, run: Run) -> Turn:
        """Decide on a run whose template is here now, let it wait on, or end it in the end."""
        self._parking.admit(run)
        lacks = run.admission.lacks
        if lacks is not None:
            deadline_ms = run.request.deadline_ms
            if deadline_ms is not None and deadline_ms <= self._clock_ms():
                late = Expired(f"the request's deadline passed while it waited for {lacks.told}")
                await self._endings.without_attempt(run, "expired", reason_of(late))
                return Ended()
            run.lacks_since_ms = run.lacks_since_ms or self._clock_ms()
            wait = ForTemplate(lacks, run.lacks_since_ms, deadline_ms)
            if not self._waits.is_over(wait):
                # Its last owner, who parked it, may have had what this one lacks.
                place = self._parking.tell_of_wait(run, ticket.stands_at)
                again = replace(ticket, stands_at=place, wait=wait, gone=False, behind=None)
                return WaitOn(again)
            in_vain = self._waits.templates.in_vain(lacks)
            run.admission = refused(run.request, run.admission, in_vain, self._state)
        admission = run.admission
        if admission.refused is not None:
            await self._endings.refused(run)
            return Ended()
        if admission.is_new:
            # An attempt that may cost takes it along, and waits for it.
            run.decided = self._writer.submit([admission.made], run.traceparent, lazy=True)
        return Begin(is_late=True)
