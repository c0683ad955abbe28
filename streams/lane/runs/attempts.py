"""The attempts of a lane's runs: one that may cost or have an effect is committed before it begins.

So whoever takes over knows which attempts were under way, and what each may have cost. One that
was lost is charged at its worst case when the next one begins, or the run ends. A run of price zero
without effects has no mark and waits for nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from millstream.middleware.base import AttemptUsage, RunAccount
from millstream.schemas.errors import Terminal
from millstream.schemas.events import AttemptStarted, ResolvedRequest
from millstream.schemas.runs.errors import AttemptsExhausted
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.runs.admission import Admission
from millstream.streams.lane.state.attempt_costs import charge_attempts
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.wire.keys import request_key
from millstream.streams.wire.trace import Trace


class AttemptStarter:
    """Begins the attempts of one lane's runs, and charges for those that were in vain.

    Of one request, at most `lost_max` may be lost with their owners: one more is not made.
    """

    def __init__(self, *, state: LaneState, writer: LaneWriter, lost_max: int) -> None:
        self._state = state
        self._writer = writer
        self._lost_max = lost_max

    async def begin(
        self,
        admission: Admission,
        *,
        attempt: int,
        decided: asyncio.Future[Any] | None,
        may_follow: bool,
        traceparent: Trace,
    ) -> AttemptStarted | Terminal | None:
        """Ask the chain for an attempt, and return once it may make its first call.

        Gives its committed mark, `None` where it needs none, or why it may not begin. `decided` is
        done once the run's decision is committed; `may_follow` says that an earlier owner may have
        begun the run. Raises `LaneLost`.
        """
        assert admission.context is not None  # noqa: S101  what is not refused has one
        key = request_key(admission.context.request)
        lost = self._state.open_attempts.lost(key)
        charges = charge_attempts(self._state.open_attempts, self._state.pipeline, key)
        standing = RunAccount(
            admission.reserved_micros,
            charges.micros,
            charges.usage,
            lost=lost,
            may_follow_lost=may_follow,
        )
        begun: AttemptStarted | Terminal | None
        if lost >= self._lost_max:
            begun = AttemptsExhausted(
                f"{lost} attempts were lost with the workers that made them; see their logs"
            )
        else:
            begun = self._state.pipeline.begin(admission.context, standing, attempt=attempt)
        events = [*charges.events, *([begun] if isinstance(begun, AttemptStarted) else [])]
        if events:
            await self._writer.commit(events, traceparent)
        if isinstance(begun, AttemptStarted) and decided is not None:
            await decided
        return begun

    async def charge(
        self, request: ResolvedRequest, used: AttemptUsage, traceparent: Trace
    ) -> None:
        """Commit what an attempt used that was in vain, so that the next one may begin."""
        if events := charge_attempts(
            self._state.open_attempts, self._state.pipeline, request_key(request), (request, used)
        ).events:
            await self._writer.commit(events, traceparent)
