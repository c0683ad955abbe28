"""How a request ends in a lane: its outcome is settled, committed, and only then acknowledged."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from millstream.middleware.base import AttemptUsage
from millstream.schemas.base import Event
from millstream.schemas.dead_letters import RequestIdReused
from millstream.schemas.events import AgentResult, CostRecorded, Decision, ResolvedRequest
from millstream.schemas.ports import ClockMs
from millstream.schemas.reasons import reason_of
from millstream.streams.lane.base.window import Entry
from millstream.streams.lane.output import outcomes
from millstream.streams.lane.output.writer import Committed, LaneWriter
from millstream.streams.lane.state.attempt_costs import charge_attempts
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.transactions.committer import CommitRefused
from millstream.streams.wire.codec import Tombstone
from millstream.streams.wire.keys import RequestKey, request_key
from millstream.streams.wire.records import InputRecord
from millstream.streams.wire.trace import Trace


class InFlightRequests:
    """The requests that one lane has in flight, until their outcome is committed."""

    def __init__(
        self,
        *,
        state: LaneState,
        writer: LaneWriter,
        clock_ms: ClockMs,
    ) -> None:
        self._state = state
        self._writer = writer
        self._clock_ms = clock_ms
        self._digests: dict[RequestKey, str | None] = {}

    def register(self, key: RequestKey, asked: str | None = None) -> bool:
        """Take a request in hand; tell whether it is neither finished nor in hand already.

        `asked` is its digest, if it is known. Raises `RequestIdReused` if it differs from what was
        asked under the same id before, as far as that is known.
        """
        is_in_flight = key in self._digests
        before = self._digests[key] if is_in_flight else self._state.asked(key)
        if before is not None and asked is not None and before != asked:
            raise RequestIdReused(
                f"request id {key[2]!r} was used before by this user for something else (template, "
                "model, session or input differ); give each request an id of its own"
            )
        if is_in_flight or self._state.is_finished(key):
            return False
        self._digests[key] = asked
        return True

    def is_finished(self, key: RequestKey) -> bool:
        """Tell whether a request's result is committed."""
        return self._state.is_finished(key)

    def is_registered(self, key: RequestKey) -> bool:
        """Tell whether a request has begun here, and its result is not committed."""
        return key in self._digests

    def forget(self, key: RequestKey) -> None:
        """Let go of a request whose outcome is committed."""
        self._digests.pop(key, None)

    def settlement(
        self, request: ResolvedRequest, result: AgentResult, used: AttemptUsage | None = None
    ) -> list[Event]:
        """Take a result back through the chain: the result to commit, and what goes with it.

        `used` is what its last attempt used, if one was made. It is folded here: hand it to
        `finish` in the same tick.
        """
        pipeline = self._state.pipeline
        ended = None if used is None else (request, used)
        charges = charge_attempts(
            self._state.open_attempts, self._state.pipeline, request_key(request), ended
        )
        settlement = pipeline.settle(request, charges.on(result))
        events: list[Event] = [settlement.result, *settlement.events]
        if not pipeline.needs:  # else they come back from the topics, as another stage's do
            for event in events:
                pipeline.fold(event)
        return [*events, *charges.events]

    def settlement_without_run(self, result: AgentResult) -> list[Event]:
        """Give what to commit with the result of a request that is not at hand; folded here."""
        charges = charge_attempts(
            self._state.open_attempts, self._state.pipeline, request_key(result)
        )
        result = charges.on(result)
        self._state.pipeline.fold(result)
        return [result, *charges.events]

    def finish(
        self,
        entry: Entry[InputRecord] | None,
        request: ResolvedRequest,
        events: Sequence[Event | Tombstone],
        traceparent: Trace,
    ) -> Coroutine[Any, Any, None]:
        """Submit a request's outcome now; gives what to await until it is committed.

        Call it in the tick in which the outcome was folded: a snapshot cuts between two ticks, and
        what is in the pipeline's state must be on its way to the log. An outcome that is too large
        to be written is replaced by one that says so. `entry` is the record that asked for it,
        unless that is acknowledged already.
        """
        committed = self._writer.submit(events, traceparent)
        return self._finished(entry, request, events, traceparent, committed)

    async def _finished(
        self,
        entry: Entry[InputRecord] | None,
        request: ResolvedRequest,
        events: Sequence[Event | Tombstone],
        traceparent: Trace,
        committed: Committed,
    ) -> None:
        try:
            await committed
        except CommitRefused as refused:
            failed = outcomes.oversized_result(
                request, events, at_ms=self._clock_ms(), reason=reason_of(refused)
            )
            # What the pipeline has folded must be on the log, whatever else is not.
            kept = Decision | CostRecorded | Tombstone
            folded = [event for event in events if isinstance(event, kept)]
            await self._writer.replace([*folded, failed], traceparent)
        self.forget(request_key(request))
        if entry is not None:
            entry.finish()
