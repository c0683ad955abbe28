"""Facts of one attempt, on their way to the log in the order in which they came.

A fact is submitted at once and awaited at the next door, before anything else is called: so what
LangGraph does between two calls goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from millstream.agents.models.call_meter import CallMeter
from millstream.agents.tools.moments import Moments
from millstream.schemas.base import CallUsage
from millstream.schemas.errors import LaneLost
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.journal.steps import JournalKind, JournalStep
from millstream.schemas.ports import ClockMs, CommitStep
from millstream.schemas.runs.call_usage import bounded
from millstream.schemas.runs.reservations import NextCall

__all__ = ["OVER", "Journal"]

OVER = "the attempt is over: nothing more is committed or reserved for it"


class Journal:
    """Has the facts of one attempt committed by `commit`, which is called in their order.

    With each fact it tells what the attempt's calls used since the one before, as `meter` has it,
    and the times that middlewares were told since, as `moments` has them.
    """

    def __init__(
        self,
        request: ResolvedRequest,
        attempt: int,
        commit: CommitStep,
        meter: CallMeter,
        clock_ms: ClockMs,
    ) -> None:
        self._request = request
        self._attempt = attempt
        self._commit = commit
        self._meter = meter
        self.clock_ms = clock_ms
        self._told_calls = 0
        self.moments = Moments()
        self._sending: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        # Of whoever makes the journal: what commits is not the run's code.
        self._context = contextvars.copy_context()

    def add(
        self,
        kind: JournalKind,
        *,
        at_ms: int | None = None,
        next_call: NextCall | None = None,
        **told: Any,
    ) -> None:
        """Take a fact; it is on its way at once. What goes wrong is raised at the next door.

        `at_ms` is when it came, `None`: now. `next_call` is the model call that follows it, if it
        is known and to be reserved.
        """
        request = self._request
        fact = JournalStep(
            tenant=request.tenant,
            user_id=request.user_id,
            at_ms=self.clock_ms() if at_ms is None else at_ms,
            request_id=request.request_id,
            session_id=request.session_id,
            attempt=self._attempt,
            step=0,  # the lane numbers it
            kind=kind,
            used=self._used(),
            moments=self.moments.to_write(),
            **told,
        )
        sending = asyncio.get_running_loop().create_task(
            self._send(fact, next_call), context=self._context
        )
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)

    async def settled(self) -> None:
        """Return once all facts are committed. Raises what one of them raised, for ever."""
        while self._sending and self._failure is None:
            await asyncio.wait(self._sending)
        if self._failure is not None:
            raise self._failure

    async def sent(self) -> None:
        """Return once all facts are committed, or have failed."""
        if self._sending:
            await asyncio.wait(self._sending)

    async def abandon(self) -> None:
        """End what is on its way: the attempt is over, and nobody waits for it."""
        sending = set(self._sending)
        for one in sending:
            one.cancel()
        if sending:
            await asyncio.wait(sending)
        # What commits leads to the run, and the run to this: a cycle for the garbage collector.
        self._commit = _nobody_commits

    async def _send(self, fact: JournalStep, next_call: NextCall | None) -> None:
        try:
            await self._commit(fact, next_call=next_call)
        except Exception as error:  # noqa: BLE001  raised at the next door
            self._failure = self._failure or error

    def _used(self) -> tuple[CallUsage, ...]:
        over = self._meter.over[self._told_calls :]
        self._told_calls += len(over)
        return bounded(over)


async def _nobody_commits(fact: JournalStep, *, next_call: NextCall | None = None) -> None:
    message = f"{OVER}: {fact.kind}, {next_call}"
    raise LaneLost(message)
