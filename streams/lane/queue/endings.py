"""Ends of requests in the queue: each submitted in the tick in which it was settled."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from millstream.schemas.base import Event, Reason
from millstream.schemas.events import AgentResult, Decision, ResultStatus
from millstream.schemas.ports import ClockMs
from millstream.schemas.reasons import result_of
from millstream.streams.lane.output.in_flight import InFlightRequests
from millstream.streams.lane.output.outcomes import CutOff
from millstream.streams.lane.queue.parking import Parking
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.runs.telling.run_states import RunStates
from millstream.streams.lane.state.lane_state import LaneState


class Endings:
    """Commits what the requests of one lane's queue end with, and what is to be forgotten then."""

    def __init__(
        self,
        *,
        state: LaneState,
        in_flight: InFlightRequests,
        parking: Parking,
        states: RunStates,
        clock_ms: ClockMs,
    ) -> None:
        self._state = state
        self._states = states
        self._in_flight = in_flight
        self._parking = parking
        self._clock_ms = clock_ms

    def commit(self, run: Run, events: Sequence[Event]) -> Coroutine[Any, Any, None]:
        """Submit what a run ends with, now; give what to await until it is committed."""
        run.ending = True
        result = next(one for one in events if isinstance(one, AgentResult))
        gone = self._parking.tombstones(run)
        finish = self._in_flight.finish(run.entry, run.request, [*events, *gone], run.traceparent)
        return self._told(finish, run, result)

    async def _told(
        self, committed: Coroutine[Any, Any, None], run: Run, result: AgentResult
    ) -> None:
        await committed
        self._states.ended(run.request, result.status, result.attempt, result.reason)

    def without_attempt(
        self, run: Run, status: ResultStatus, reason: Reason, *decided: Decision
    ) -> Coroutine[Any, Any, None]:
        """End a request that waits, now; `decided` is a decision on it that goes along."""
        shown = run.may_follow or run.tries > 0
        result = result_of(
            run.request,
            at_ms=self._clock_ms(),
            status=status,
            reason=reason,
            usage=run.spent_usage,
            # What an earlier attempt showed is void: the newest one has no text.
            attempt=self._state.attempt(run.tries) if shown else 0,
        )
        never_ran = bool(decided) or run.admission.decision is None
        used = None if never_ran else run.used(result.attempt)
        events = self._in_flight.settlement(run.request, result, used)
        return self.commit(run, [*decided, *events])

    def cut_off(self, run: Run, how: CutOff) -> Coroutine[Any, Any, None]:
        """End a request that waits as somebody ended it, now."""
        return self.without_attempt(run, how.status, how.reason)

    def refused(self, run: Run) -> Coroutine[Any, Any, None]:
        """End a request that was refused when its turn came, now."""
        admission = run.admission
        decision, reason = admission.made, admission.refused
        assert reason is not None  # noqa: S101  only what is refused comes here
        decided = (decision,) if admission.is_new else ()
        status: ResultStatus = "failed" if decision.admitted else "rejected"
        return self.without_attempt(run, status, reason, *decided)
