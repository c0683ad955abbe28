"""The agent runs of a lane: one at a time per session, each until its outcome is committed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agents.executor import RunOutcome
from agents.factory import RunPlan
from schemas.base import Event, Reason, Usage
from schemas.errors import Rejected
from schemas.events import (
    ATTEMPTS_PER_GENERATION,
    AgentResult,
    AttemptStarted,
    CheckpointSaved,
    ResolvedRequest,
    SessionUpdated,
)
from schemas.reasons import reason_of
from schemas.topics import TOKENS
from streams import outcomes
from streams.admission import Admission
from streams.intake import InputRecord
from streams.lane_attempts import LaneAttempts
from streams.lane_endings import LaneEndings
from streams.lane_output import LaneOutput
from streams.lane_parts import LaneServices
from streams.lane_state import LaneState, RequestKey, SessionKey, request_key, session_key
from streams.session_queues import SessionQueues
from streams.settings import Settings
from streams.tokens import TokenPublisher
from streams.window import Entry

Blamed = Callable[[Entry[InputRecord], Coroutine[Any, Any, None]], Coroutine[Any, Any, None]]
"""Wraps work on a record, so that an unforeseen error is held against the record."""


T = TypeVar("T")

_CHANCE = random.SystemRandom()


@dataclass(slots=True, eq=False)
class Run:
    """A run that is under way or waits for its session.

    `decided` is done once its decision is committed, `ended` once its result is; `cancelled`
    says why it is to end, `failures` counts the attempts that were in vain.
    """

    entry: Entry[InputRecord]
    request: ResolvedRequest
    admission: Admission
    decided: asyncio.Future[Any] | None
    traceparent: bytes
    cancelled: Reason | None = None
    executing: asyncio.Task[Any] | None = None
    failures: int = 0
    ended: asyncio.Future[None] = field(default_factory=asyncio.Future)

    def is_cancelled(self) -> bool:
        """Whether its user wants it to end."""
        return self.cancelled is not None


class LaneRuns:
    """Runs agents for one lane and hands on what comes of them."""

    def __init__(
        self,
        settings: Settings,
        services: LaneServices,
        partition: int,
        *,
        state: LaneState,
        output: LaneOutput,
        endings: LaneEndings,
        blamed: Blamed,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._settings = settings
        self._services = services
        self._partition = partition
        self._state = state
        self._output = output
        self._endings = endings
        self._attempts = LaneAttempts(state=state, output=output)
        self._blamed = blamed
        self._sessions = SessionQueues(on_failure)
        self._runs: dict[RequestKey, Run] = {}
        self._new_from_offset = 0

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """Give the tasks at work, one per session."""
        return self._sessions.tasks

    def open(self, *, new_from_offset: int) -> None:
        """Say which records no earlier owner can have begun: those from `new_from_offset` on."""
        self._new_from_offset = new_from_offset

    def submit(self, run: Run) -> None:
        """Queue a run behind those of its session."""
        self._runs[request_key(run.request)] = run
        self._sessions.submit(
            session_key(run.request), lambda: self._blamed(run.entry, self._work(run))
        )

    def cancel(self, key: RequestKey, reason: Reason) -> asyncio.Future[None] | None:
        """End a run: the model's call is cut off, or never made.

        Gives what is done once its result is committed; `None` where there is no such run.
        """
        run = self._runs.get(key)
        if run is None:
            return None
        run.cancelled = reason
        if run.executing is not None:
            run.executing.cancel()
        return run.ended

    def of_session(self, session: SessionKey) -> tuple[RequestKey, ...]:
        """Give the requests of a session that run or wait."""
        return tuple(key for key, run in self._runs.items() if session_key(run.request) == session)

    async def close(self) -> None:
        """Cancel everything; nothing is committed any more."""
        await self._sessions.cancel()

    async def _work(self, run: Run) -> None:
        events = await self._events(run)
        await self._endings.finish(run.entry, run.request, events, run.traceparent)
        del self._runs[request_key(run.request)]
        run.ended.set_result(None)

    async def _events(self, run: Run) -> list[Event]:
        """Try until there is an outcome that stands; give what is to be committed of it."""
        head = self._output.head(session_key(run.request))
        policy = _plan_of(run).template.retry
        spent = Usage()
        outcome: RunOutcome | None = None
        while True:
            tokens = self._tokens(run)
            begun = await self._begin(run)
            if isinstance(begun, Rejected):
                return self._endings.settled(run.request, self._refused(run, begun, outcome))
            outcome = None if run.is_cancelled() else await self._attempt(run, tokens, head)
            # The result comes after its tokens: whoever has read the result can read all of them.
            await tokens.flush()
            if outcome is None:
                return self._endings.settled(run.request, self._cancelled(run, tokens))
            delay_s = None
            if outcome.retryable:
                delay_s = policy.delay_s(run.failures + 1, chance=_CHANCE.random())
            if delay_s is None:
                break
            spent += outcome.result.usage
            await self._cancellable(run, asyncio.sleep(delay_s))
            if not run.is_cancelled():
                run.failures += 1
        result = outcome.result.model_copy(update={"usage": outcome.result.usage + spent})
        events = self._endings.settled(run.request, result)
        if outcome.checkpoint is not None:
            events += [outcome.checkpoint, self._output.head_of(outcome.checkpoint, head)]
        return events

    async def _begin(self, run: Run) -> AttemptStarted | Rejected | None:
        if run.is_cancelled():
            return None
        return await self._attempts.begin(
            run.admission,
            attempt=self._number(run),
            decided=run.decided,
            traceparent=run.traceparent,
        )

    async def _attempt(
        self, run: Run, tokens: TokenPublisher, head: SessionUpdated | None
    ) -> RunOutcome | None:
        """Run the agent once; gives `None` if the run was cancelled."""

        async def load_checkpoint() -> CheckpointSaved | None:
            return None if head is None else await self._output.load_checkpoint(head)

        with self._services.metrics.runs_in_flight.track_inprogress():
            return await self._cancellable(
                run,
                self._services.run_agent(
                    run.request,
                    _plan_of(run),
                    attempt=self._number(run),
                    load_checkpoint=load_checkpoint,
                    emit=tokens.write,
                    announce=run.failures > 0 or self._may_follow_another(run),
                ),
            )

    async def _cancellable(self, run: Run, work: Coroutine[Any, Any, T]) -> T | None:
        """Do what the run waits for; gives `None` if the run was cancelled meanwhile."""
        run.executing = executing = asyncio.create_task(work)
        try:
            return await executing
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not run.is_cancelled() or (task is not None and task.cancelling()):
                raise  # not the run is cancelled but its lane: nothing of it counts
            return None
        finally:
            run.executing = None

    def _tokens(self, run: Run) -> TokenPublisher:
        return TokenPublisher(
            self._services.producer,
            topic=self._settings.topic(TOKENS.name),
            partition=self._partition,
            source=self._output.source,
            traceparent=run.traceparent,
        )

    def _may_follow_another(self, run: Run) -> bool:
        # Tokens leave before anything is committed, so a decision's absence proves nothing.
        return self._state.generation > 1 and run.entry.offset < self._new_from_offset

    def _number(self, run: Run) -> int:
        return self._state.generation * ATTEMPTS_PER_GENERATION + run.failures

    def _refused(self, run: Run, rejection: Rejected, before: RunOutcome | None) -> AgentResult:
        """Give the failed result of a run that may not begin another attempt."""
        failed: dict[str, Any] = {"status": "failed", "reason": reason_of(rejection)}
        if before is not None:
            return before.result.model_copy(update=failed)
        return outcomes.result(
            run.request,
            at_ms=self._services.clock_ms(),
            attempt=self._number(run),
            model=_plan_of(run).model,
            **failed,
        )

    def _cancelled(self, run: Run, tokens: TokenPublisher) -> AgentResult:
        return outcomes.result(
            run.request,
            at_ms=self._services.clock_ms(),
            status="cancelled",
            reason=run.cancelled,
            attempt=self._number(run),
            last_seq=tokens.last_seq,
            text_sha256=tokens.text_sha256,
            model=_plan_of(run).model,
        )


def _plan_of(run: Run) -> RunPlan:
    plan = run.admission.plan
    assert plan is not None  # noqa: S101  what is not refused has a plan
    return plan
