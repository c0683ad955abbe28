"""The agent runs of a lane: one at a time per session, each until its outcome is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from agents.executor import RunOutcome
from schemas.base import Event, Reason
from schemas.events import ATTEMPTS_PER_GENERATION, CheckpointSaved, ResolvedRequest
from schemas.topics import TOKENS
from streams import outcomes
from streams.admission import Admission
from streams.intake import InputRecord
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


@dataclass(slots=True, eq=False)
class Run:
    """A run that is under way or waits for its session.

    `reserved` is done once its reservation is committed, `ended` once its result is; `cancelled`
    says why it is to end.
    """

    entry: Entry[InputRecord]
    request: ResolvedRequest
    admission: Admission
    reserved: asyncio.Future[Any] | None
    traceparent: bytes
    cancelled: Reason | None = None
    executing: asyncio.Task[RunOutcome] | None = None
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
        tokens = TokenPublisher(
            self._services.producer,
            topic=self._settings.topic(TOKENS.name),
            partition=self._partition,
            source=self._output.source,
            traceparent=run.traceparent,
        )
        events = await self._outcome(run, tokens)
        # The result comes after its tokens: whoever has read the result can read all of them.
        await tokens.flush()
        await self._endings.finish(run.entry, run.request, events, run.traceparent)
        del self._runs[request_key(run.request)]
        run.ended.set_result(None)

    async def _outcome(self, run: Run, tokens: TokenPublisher) -> list[Event]:
        if run.reserved is not None:
            await run.reserved
        if run.is_cancelled():
            return self._cancelled(run, tokens)
        head = self._output.head(session_key(run.request))

        async def load_checkpoint() -> CheckpointSaved | None:
            return None if head is None else await self._output.load_checkpoint(head)

        plan = run.admission.plan
        assert plan is not None  # noqa: S101  what is not refused has a plan
        run.executing = asyncio.create_task(
            self._services.executor.run(
                run.request,
                plan,
                attempt=self._attempt,
                load_checkpoint=load_checkpoint,
                emit=tokens.write,
                announce=self._may_follow_another(run),
            )
        )
        try:
            with self._services.metrics.runs_in_flight.track_inprogress():
                outcome = await run.executing
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not run.is_cancelled() or (task is not None and task.cancelling()):
                raise  # not the run is cancelled but its lane: nothing of it counts
            return self._cancelled(run, tokens)
        events = self._endings.settled(run.request, outcome.result)
        if outcome.checkpoint is not None:
            events += [outcome.checkpoint, self._output.head_of(outcome.checkpoint, head)]
        return events

    def _may_follow_another(self, run: Run) -> bool:
        # Tokens leave before anything is committed, so a decision's absence proves nothing.
        return self._state.generation > 1 and run.entry.offset < self._new_from_offset

    @property
    def _attempt(self) -> int:
        return self._state.generation * ATTEMPTS_PER_GENERATION

    def _cancelled(self, run: Run, tokens: TokenPublisher) -> list[Event]:
        plan = run.admission.plan
        result = outcomes.result(
            run.request,
            at_ms=self._services.clock_ms(),
            status="cancelled",
            reason=run.cancelled,
            attempt=self._attempt,
            last_seq=tokens.last_seq,
            text_sha256=tokens.text_sha256,
            model=None if plan is None else plan.model,
        )
        return self._endings.settled(run.request, result)
