"""The attempts of a lane's runs: one that may cost or have an effect is committed before it begins.

So whoever takes over knows which attempts were under way, and what each may have cost. A run of
price zero without effects has no mark and waits for nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from middleware.base import Standing
from schemas.errors import Rejected
from schemas.events import AttemptStarted
from streams.admission import Admission
from streams.lane_output import LaneOutput
from streams.lane_state import LaneState


class LaneAttempts:
    """Begins the attempts of one lane."""

    def __init__(self, *, state: LaneState, output: LaneOutput) -> None:
        self._state = state
        self._output = output

    async def begin(
        self,
        admission: Admission,
        *,
        attempt: int,
        decided: asyncio.Future[Any] | None,
        traceparent: bytes,
    ) -> AttemptStarted | Rejected | None:
        """Ask the chain for an attempt, and return once it may make its first call.

        Gives its committed mark, `None` where it needs none, or why it may not begin. `decided` is
        done once the run's decision is committed. Raises `LaneLost`.
        """
        assert admission.context is not None  # noqa: S101  what is not refused has one
        standing = Standing(reserved_micros=admission.reserved_micros)
        begun = self._state.pipeline.begin(admission.context, standing, attempt=attempt)
        if isinstance(begun, AttemptStarted):
            await self._output.commit([begun], traceparent)
            if decided is not None:
                await decided
        return begun
