"""How a request ends in a lane: its outcome is settled, committed, and only then acknowledged."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.base import Event
from schemas.events import AgentResult, CostRecorded, ResolvedRequest
from schemas.ports import ClockMs
from schemas.reasons import reason_of
from streams import outcomes
from streams.committer import CommitRefused
from streams.intake import InputRecord
from streams.lane_output import LaneOutput
from streams.lane_state import LaneState, RequestKey, request_key
from streams.window import Entry


class LaneEndings:
    """The requests that one lane has in flight, until their outcome is committed."""

    def __init__(
        self,
        *,
        state: LaneState,
        output: LaneOutput,
        clock_ms: ClockMs,
    ) -> None:
        self._state = state
        self._output = output
        self._clock_ms = clock_ms
        self._in_flight: set[RequestKey] = set()

    def begin(self, key: RequestKey) -> bool:
        """Take a request in hand; tell whether it is neither finished nor in hand already."""
        if key in self._state.finished or key in self._in_flight:
            return False
        self._in_flight.add(key)
        return True

    def end(self, key: RequestKey) -> None:
        """Let go of a request whose outcome is committed."""
        self._in_flight.discard(key)

    def settled(self, request: ResolvedRequest, result: AgentResult) -> list[Event]:
        """Take a result back through the chain: the result to commit, and what goes with it."""
        pipeline = self._state.pipeline
        settlement = pipeline.settle(request, result)
        events: list[Event] = [settlement.result, *settlement.events]
        if not pipeline.needs:  # else they come back from the topics, as another stage's do
            for event in events:
                pipeline.fold(event)
        return events

    async def finish(
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
                request, events, at_ms=self._clock_ms(), reason=reason_of(refused)
            )
            spent = [event for event in events if isinstance(event, CostRecorded)]
            await self._output.commit([failed, *spent], traceparent)
        self.end(request_key(request))
        entry.finish()
