"""The agent runs of a lane: one at a time per session, each until its outcome is committed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from millstream.agents.executor import RunOutcome
from millstream.middleware.base import AttemptUsage
from millstream.schemas.base import NO_USAGE, Event
from millstream.schemas.errors import AttemptsExhausted, RequestTimedOut, Suspended, Terminal
from millstream.schemas.events import AgentResult, AttemptStarted, CheckpointSaved, SessionUpdated
from millstream.schemas.lane_events import ATTEMPTS_PER_GENERATION
from millstream.schemas.ports import BeforeCall
from millstream.schemas.reasons import reason_of
from millstream.schemas.topics import TOKENS
from millstream.streams.lane.base.context import LaneServices
from millstream.streams.lane.base.crash_counter import CrashCounter
from millstream.streams.lane.output import outcomes
from millstream.streams.lane.output.in_flight import InFlightRequests
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.runs.attempts import AttemptStarter
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.runs.session_queues import SessionQueues
from millstream.streams.lane.runs.token_publisher import TokenPublisher
from millstream.streams.lane.state.lane_state import LaneState
from millstream.streams.settings import Settings

T = TypeVar("T")

WAIT_IN_MEMORY_MAX_S = 1.0
"""A run that has to wait longer than this for its next attempt leaves memory meanwhile."""

_CHANCE = random.SystemRandom()


class RunQueuePort(Protocol):
    """What a run asks of the queue that it came from."""

    def must_leave(self, run: Run) -> bool:
        """Tell whether a run is to leave memory instead of beginning an attempt."""
        ...

    def is_held(self, run: Run) -> bool:
        """Tell whether a run is paused."""
        ...

    def keep_progress(self, run: Run) -> None:
        """Commit how far a run is, so that the next owner knows it too."""
        ...

    async def left(self, run: Run) -> None:
        """Take back a run that has left; returns once it is certain to be taken up again."""
        ...

    def ends(self, run: Run) -> list[Any]:
        """Hear that a run's result is submitted now; give what is to be forgotten with it."""
        ...

    def ended(self, run: Run) -> None:
        """Hear that a run's result is committed."""
        ...


class RunRunner:
    """Runs agents for one lane and hands on what comes of them."""

    def __init__(
        self,
        settings: Settings,
        services: LaneServices,
        partition: int,
        *,
        state: LaneState,
        writer: LaneWriter,
        in_flight: InFlightRequests,
        queue: RunQueuePort,
        before_call: BeforeCall,
        crash_counter: CrashCounter,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._settings = settings
        self._services = services
        self._partition = partition
        self._state = state
        self._writer = writer
        self._in_flight = in_flight
        self._attempts = AttemptStarter(state=state, writer=writer)
        self._queue = queue
        self._may_call = before_call
        self._crash_counter = crash_counter
        self._sessions = SessionQueues(on_failure)

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """Give the tasks at work, one per session."""
        return self._sessions.tasks

    def start(self, run: Run) -> None:
        """Queue a run behind those of its session that are in memory."""
        source = run.request.source
        self._sessions.submit(
            run.session, lambda: self._crash_counter.guard(source, self._work(run))
        )

    async def close(self) -> None:
        """Cancel everything; nothing is committed any more."""
        await self._sessions.cancel()

    async def _work(self, run: Run) -> None:
        events = await self._events(run)
        if events is None:
            await self._queue.left(run)
            return
        gone = self._queue.ends(run)
        await self._in_flight.finish(run.entry, run.request, [*events, *gone], run.traceparent)
        self._queue.ended(run)

    async def _events(self, run: Run) -> list[Event] | None:
        """Try until there is an outcome that stands; give what is to be committed of it.

        Gives `None` for a run that has to leave memory.
        """
        head = self._writer.head(run.session)
        outcome: RunOutcome | None = None
        while True:
            if not run.is_cancelled() and self._queue.must_leave(run):
                run.under_way.stop(self._services.clock_ms())
                return None
            tokens = self._tokens(run)
            begun = await self._begin(run)
            if isinstance(begun, Terminal):
                refused = self._refused(run, begun, outcome)
                return self._in_flight.settlement(run.request, refused, run.used(refused.attempt))
            called = not run.is_cancelled()
            outcome = await self._attempt(run, tokens, head) if called else None
            used = run.used(self._number(run), begun, outcome, called=called)
            # The result comes after its tokens: whoever has read the result can read all of them.
            await tokens.flush()
            if outcome is None:
                return self._in_flight.settlement(run.request, self._cancelled(run, tokens), used)
            if outcome.suspended:
                await self._charge(run, used)
                run.tries += 1
                continue
            delay_s = _again_after_s(run, outcome)
            if delay_s is None:
                break
            if run.is_over_by(self._services.clock_ms() + round(delay_s * 1000)):
                outcome = _out_of_time(run, outcome)
                break
            await self._charge(run, used)
            run.failures += 1
            run.tries += 1
            if not await self._waited(run, delay_s):
                return None
        events = self._in_flight.settlement(run.request, outcome.result, used)
        if outcome.checkpoint is not None:
            events += [outcome.checkpoint, self._writer.head_of(outcome.checkpoint, head)]
        return events

    async def _waited(self, run: Run, delay_s: float) -> bool:
        """Wait before the next attempt; gives false if the run is to leave memory meanwhile."""
        if delay_s > WAIT_IN_MEMORY_MAX_S:
            run.not_before_ms = self._services.clock_ms() + round(delay_s * 1000)
            run.under_way.stop(run.not_before_ms)
            return False
        await self._cancellable(run, asyncio.sleep(delay_s))
        return True

    async def _begin(self, run: Run) -> AttemptStarted | Terminal | None:
        if run.is_cancelled():
            return None
        if run.tries >= ATTEMPTS_PER_GENERATION:
            # A higher number is the next owner's. Retries are bounded far below, pauses are not.
            return AttemptsExhausted(f"the request was begun {run.tries} times without an outcome")
        if (limit_s := run.plan.template.request_timeout_s) is not None:
            now_ms = self._services.clock_ms()
            run.under_way.start(now_ms)
            if run.is_over_by(now_ms):
                return RequestTimedOut(f"the request took longer than {limit_s:g} s")
            # Committed with the attempt's mark; where it needs none, while it is under way.
            self._queue.keep_progress(run)
        return await self._attempts.begin(
            run.admission,
            attempt=self._number(run),
            decided=run.decided,
            may_follow=run.may_follow,
            traceparent=run.traceparent,
        )

    async def _charge(self, run: Run, used: AttemptUsage) -> None:
        """Charge for an attempt after which another is to begin; what is free adds up."""
        if used.started is None:
            run.spent = used.usage
            return
        run.spent = NO_USAGE
        await self._attempts.charge(run.request, used, run.traceparent)

    async def _attempt(
        self, run: Run, tokens: TokenPublisher, head: SessionUpdated | None
    ) -> RunOutcome | None:
        """Run the agent once; gives `None` if the run was cancelled."""

        async def load_checkpoint() -> CheckpointSaved | None:
            return None if head is None else await self._writer.load_checkpoint(head)

        with self._services.metrics.runs_in_flight.track_inprogress():
            return await self._cancellable(
                run,
                self._services.run_agent(
                    run.request,
                    run.plan,
                    attempt=self._number(run),
                    load_checkpoint=load_checkpoint,
                    emit=tokens.write,
                    announce=run.tries > 0 or run.may_follow,
                    before_call=partial(self._before_call, run),
                    ends_by_ms=run.ends_by_ms,
                ),
            )

    async def _before_call(self, run: Run) -> None:
        await self._may_call()
        if self._queue.is_held(run):
            message = "the request or its session is paused"
            raise Suspended(message)

    async def _cancellable(self, run: Run, work: Awaitable[T]) -> T | None:
        """Do what the run waits for; gives `None` if the run was cancelled meanwhile."""
        run.executing = executing = asyncio.ensure_future(work)
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
            source=self._writer.source,
            traceparent=run.traceparent,
        )

    def _number(self, run: Run) -> int:
        return self._state.attempt(run.tries)

    def _refused(self, run: Run, refusal: Terminal, before: RunOutcome | None) -> AgentResult:
        """Give the failed result of a run that may not begin another attempt."""
        failed: dict[str, Any] = {"status": "failed", "reason": reason_of(refusal)}
        if before is not None:
            return before.result.model_copy(update=failed)
        return outcomes.result(
            run.request,
            at_ms=self._services.clock_ms(),
            attempt=self._number(run),
            model=run.plan.model,
            usage=run.spent,
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
            model=run.plan.model,
        )


def _again_after_s(run: Run, outcome: RunOutcome) -> float | None:
    """Give how long to wait before a run is tried once more; `None`: it is not."""
    if not outcome.retryable:
        return None
    return run.plan.template.retry.delay_s(run.failures + 1, chance=_CHANCE.random())


def _out_of_time(run: Run, failed: RunOutcome) -> RunOutcome:
    """Give the outcome of a run that failed, and whose next attempt would begin too late."""
    message = (
        f"another attempt would begin after the request's {run.plan.template.request_timeout_s:g} s"
    )
    if (before := failed.result.reason) is not None:
        message += f"; the last one failed: {before.code}: {before.message}"
    reason = reason_of(RequestTimedOut(message))
    return replace(failed, result=failed.result.model_copy(update={"reason": reason}))
