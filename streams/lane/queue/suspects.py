"""Runs that may be what ends one worker after the other: each goes on alone.

A run that ends its worker takes the others of that worker along: every attempt that was under way
is lost. Those that were lost too often together are suspects, and of all suspects of a worker one
is under way at a time, until its result is committed. So whatever was only near is cleared, and
what is at fault uses up its own attempts alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.state.lane_state import LaneState

__all__ = ["Suspects"]


class Suspects:
    """Lets the runs of one lane go on, and those that are suspect one at a time."""

    def __init__(self, services: LaneServices, state: LaneState) -> None:
        self._together_max = services.limits.attempts_lost_together_max
        self._alone = services.alone
        self._state = state

    async def drive(self, run: Run, drive: Callable[[Run], Awaitable[None]]) -> None:
        """Let a run go on by `drive`, at once or when it is its turn."""
        if self._state.open_attempts.lost(run.key) < self._together_max:
            await drive(run)
            return
        has_turn = await self._turn(run)
        try:
            await drive(run)
        finally:
            if has_turn:
                self._alone.release()

    async def _turn(self, run: Run) -> bool:
        """Wait for a run's turn; gives false if it was cancelled meanwhile and needs none."""
        run.executing = turn = asyncio.ensure_future(self._alone.acquire())
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._alone.release()  # it came as the lane was ended
            task = asyncio.current_task()
            if not run.is_cancelled() or (task is not None and task.cancelling()):
                raise
            return False
        finally:
            run.executing = None
