"""Runs attempts for the lanes on loops of their own, and gives up a loop that code blocks."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import FrameType, TracebackType
from typing import Final

import structlog

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import wall_clock_ms
from millstream.agents.factory import RunPlan
from millstream.agents.hosting.agents_loop import AgentsLoop, BuildAgents, OwnThreads, Threads
from millstream.agents.hosting.blocked import Blocked, frame_of, where_it_stands
from millstream.agents.hosting.ended_outside import ended_outside
from millstream.agents.hosting.hosted_run import EndedOutside, HostedRun
from millstream.agents.hosting.mailbox import Mailbox
from millstream.agents.loop.calls import Calls
from millstream.agents.loop.under_way import UnderWay
from millstream.agents.models.call_meter import CallMeter
from millstream.agents.tools.caller import NO_CLAIMS
from millstream.schemas.base import CallUsage
from millstream.schemas.errors import AgentsEnded, Retryable, Suspended
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.ports import (
    BeforeCall,
    ClockMs,
    CommitStep,
    EmitSteps,
    EmitToken,
    LoadCheckpoint,
    ReserveCall,
)
from millstream.schemas.runs.errors import AttemptsExhausted

__all__ = ["AgentHost", "HostLimits"]

_ENDED_WITH_LOOPS_MAX: Final = 3
_CLOSED_WITHIN_S: Final = 3.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HostLimits:
    """How long code may keep a loop of agents from turning, and how many loops may be given up.

    Attributes:
        warn_s: Code that does so for longer is named and counted.
        blocked_max_s: After this the loop is given up: what waits on it is begun anew elsewhere.
        given_up_max: Loops that are given up and have not ended; with so many, no further one is.
    """

    warn_s: float = 1.0
    blocked_max_s: float = 5.0
    given_up_max: int = 4


class AgentHost:
    """Runs attempts as `AgentExecutor.run` does, on a loop that is not the lanes'.

    `build` makes what runs them, once for each loop. `on_blocked` is told of code that blocks a
    loop, `on_stuck` that no further loop may be given up. Made, asked and closed on one loop, the
    lanes'.
    """

    def __init__(
        self,
        build: BuildAgents,
        *,
        limits: HostLimits | None = None,
        threads: Threads | None = None,
        clock_ms: ClockMs = wall_clock_ms,
        on_blocked: Callable[[Blocked], None] = lambda _: None,
        on_stuck: Callable[[], None] = lambda: None,
    ) -> None:
        self._build = build
        self._limits = limits or HostLimits()
        self._threads = threads or OwnThreads()
        self._clock_ms = clock_ms
        self._on_blocked = on_blocked
        self._on_stuck = on_stuck
        self._loop = asyncio.get_running_loop()
        self._loops: set[AgentsLoop] = set()
        self._made = 0
        self._is_closed = False
        self._ended = asyncio.Event()
        self._is_stuck = False
        self._current = self._new_loop()
        self._look_every_s = min(self._limits.warn_s, self._limits.blocked_max_s) / 4
        self._watching = self._loop.call_later(self._look_every_s, self._look)

    @property
    def given_up(self) -> int:
        """How many loops were given up and have not ended yet."""
        return sum(each.given_up for each in self._loops)

    def unready(self) -> str | None:
        """Say why attempts may not go on, `None` if they do."""
        if not self._is_stuck:
            return None
        return f"agents block, and {self.given_up} of their event loops were given up already"

    async def run(
        self,
        request: ResolvedRequest,
        plan: RunPlan,
        *,
        attempt: int,
        load_checkpoint: LoadCheckpoint,
        emit: EmitToken,
        announce: bool = False,
        before_call: BeforeCall | None = None,
        ends_by_ms: int | None = None,
        calls: Calls | None = None,
        emit_step: EmitSteps | None = None,
        steps_from: int = 0,
        session_metadata: Mapping[str, str] = NO_CLAIMS,
        commit_step: CommitStep | None = None,
        reserve_call: ReserveCall | None = None,
    ) -> RunOutcome:
        """Run an attempt; what it is handed is awaited on the caller's loop.

        As `AgentExecutor.run`. Besides, an attempt that waits on a loop which other code blocks is
        `suspended`, and one whose own code blocks ends at its time limit.
        """
        calls = Calls() if calls is None else calls
        shared = calls.shared()
        on = self._current
        run = HostedRun(
            request=request,
            plan=plan,
            attempt=attempt,
            load_checkpoint=load_checkpoint,
            emit=emit,
            announce=announce,
            before_call=before_call,
            ends_by_ms=ends_by_ms,
            calls=shared,
            started_at_ms=self._clock_ms(),
            lane=on.lane,
            ended=self._loop.create_future(),
            gone=self._loop.create_future(),
            under_way=UnderWay(),
            context=contextvars.copy_context(),
            told=[],
            emit_step=emit_step,
            steps_from=steps_from,
            session_metadata=session_metadata,
            commit_step=commit_step,
            reserve_call=reserve_call,
        )
        run.under_way.long_s = self._limits.warn_s
        run.under_way.tell_long = partial(on.lane.post, self._was_long, on, run)
        on.begin(run)
        try:
            end = await run.ended
        except asyncio.CancelledError:
            if not run.ended.done():
                run.close()
                on.cut(run)
                if not on.is_blocked:
                    await run.gone
            # One that was cut off before it began has used nothing.
            calls.meter = shared.meter or CallMeter(plan.template.output_tokens_max)
            raise
        finally:
            on.runs.discard(run)
            # They lead back to it.
            run.under_way.stop = run.under_way.tell_long = None
            await run.settle()
        if isinstance(end, RunOutcome):
            return end
        calls.part()
        if end.by_unknown:
            calls.begun_anew += 1
            if calls.begun_anew > _ENDED_WITH_LOOPS_MAX:
                end = EndedOutside(AttemptsExhausted(f"{calls.begun_anew} times: {end.error}"))
        return self._outcome(run, end)

    async def close(self) -> None:
        """End all loops; one that is blocked is left behind."""
        self._is_closed = True
        self._watching.cancel()
        for each in self._loops:
            for run in each.runs:
                run.end(EndedOutside(AgentsEnded("the worker ends"), suspended=True))
            each.retire(cut=True)
            if each.is_blocked:
                self._interrupt(each)
        try:
            async with asyncio.timeout(_CLOSED_WITHIN_S):
                while any(not each.is_blocked for each in self._loops):
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            _log.warning("loops of agents are left behind", loops=len(self._loops))
            for each in self._loops:
                each.blockage.look(each.thread_id, time.monotonic())
                self._interrupt(each)

    def _interrupt(self, loop: AgentsLoop) -> None:
        """End the step that a loop is in, where it can be ended."""
        loop.to_interrupt(loop.blockage.callback)
        self._threads.interrupt(loop)

    def _outcome(self, run: HostedRun, end: EndedOutside) -> RunOutcome:
        spending = run.spending
        calls: tuple[CallUsage, ...] = ()
        if spending is not None:
            calls = spending.over if end.suspended else spending.close()
        return ended_outside(
            end.error,
            request=run.request,
            plan=run.plan,
            attempt=run.attempt,
            told=run.told,
            calls=calls,
            at_ms=self._clock_ms(),
            started_at_ms=run.started_at_ms,
            retryable=end.retryable,
            suspended=end.suspended,
            usage_known=end.suspended or spending is not None,
        )

    def _new_loop(self) -> AgentsLoop:
        self._made += 1
        name = f"agents-{self._made}"
        made = AgentsLoop(
            name,
            agents=self._build(),
            lane=Mailbox(self._loop),
            failed=self._failed,
            over=self._over,
        )
        self._loops.add(made)
        self._threads.start(made)
        return made

    def _look(self) -> None:
        self._watching = self._loop.call_later(self._look_every_s, self._look)
        now_s = time.monotonic()
        for each in tuple(self._loops):
            self._look_at(each, now_s)
        self._is_stuck = self._is_stuck and self._current.is_blocked
        if self._threads.has_better:
            # It is had back from a loop that was given up. What runs elsewhere ends there.
            before, self._current = self._current, self._new_loop()
            before.retire()

    def _look_at(self, loop: AgentsLoop, now_s: float) -> None:
        blocked_s = 0.0
        if now_s - loop.beat_at_s > self._limits.warn_s / 2:
            blocked_s = loop.blockage.look(loop.thread_id, now_s)
        if blocked_s >= self._limits.warn_s:
            self._act_on(loop, blocked_s)
        elif loop.is_blocked:
            loop.is_blocked, loop.at_fault = False, None
            _log.info("a loop of agents turns again", loop=loop.name)
        if loop.given_up:
            for run in tuple(loop.runs):
                self._end_if_over(loop, run, None)

    def _act_on(self, loop: AgentsLoop, blocked_s: float) -> None:
        """Do what there is to do about code that has blocked a loop for so long."""
        was_seen = loop.is_blocked and loop.told_since_s == loop.blockage.since_s
        if not was_seen:
            # It is kept: the attempt may be over for the lane, and its code go on.
            loop.at_fault = loop.run_of(loop.blockage.run)
        at_fault = loop.at_fault
        what = self._blocked(loop, at_fault, blocked_s)
        if not was_seen:
            loop.is_blocked, loop.told_since_s = True, loop.blockage.since_s
            self._tell("code blocks the agents' event loop", what, loop)
            self._on_blocked(what)
        if at_fault is not None:
            self._end_if_over(loop, at_fault, what)
        # What is seen for the first time may be over: it kept this from looking, too.
        if blocked_s < self._limits.blocked_max_s or not was_seen:
            return
        for run in loop.runs:
            if run.closed:
                run.release()
        if not loop.given_up:
            self._give_up(loop, at_fault, what)

    def _blocked(self, loop: AgentsLoop, run: HostedRun | None, seconds: float) -> Blocked:
        tool = None if run is None else run.under_way.tool_of(loop.task_now())
        return Blocked(
            seconds=seconds,
            template=None if run is None else run.plan.template.name,
            tool=tool,
            request_id=None if run is None else run.request.request_id,
            where=where_it_stands(frame_of(loop.thread_id), AgentsLoop.serve.__code__),
        )

    def _was_long(
        self, loop: AgentsLoop, run: HostedRun, began_s: float, took_s: float, tool: str | None
    ) -> None:
        """Take in that code blocked a loop, and held the whole interpreter: nobody could look."""
        if loop.told_since_s == began_s:
            return
        what = Blocked(
            seconds=took_s,
            template=run.plan.template.name,
            tool=tool,
            request_id=run.request.request_id,
            where="a place that is not known: nothing else could run meanwhile",
        )
        self._tell("code blocked the agents' event loop", what, loop)
        self._on_blocked(what)

    def _end_if_over(self, loop: AgentsLoop, run: HostedRun, blocks: Blocked | None) -> None:
        """End an attempt at its time limit, though its loop does not."""
        if run.ended.done() or (limit := run.limit_passed(self._clock_ms())) is None:
            return
        if blocks is not None:
            # No second attempt beside what the first one still does.
            run.end(EndedOutside(type(limit)(f"{limit}: {blocks}")))
            self._tell("a run that blocks is over by its time limit", blocks, loop)
            self._interrupt(loop)
        else:
            run.end(EndedOutside(limit, retryable=isinstance(limit, Retryable)))
        loop.cut(run)

    def _give_up(self, loop: AgentsLoop, at_fault: HostedRun | None, what: Blocked) -> None:
        if self.given_up >= self._limits.given_up_max:
            if not self._is_stuck:
                self._is_stuck = True
                self._tell("no further event loop of agents may be given up", what, loop)
                self._on_stuck()
            return
        self._tell("the agents' event loop is given up", what, loop)
        loop.given_up = True
        self._current = self._new_loop()
        loop.retire()
        self._begin_anew(loop, at_fault, f"another run blocked the event loop: {what}")

    def _begin_anew(self, loop: AgentsLoop, at_fault: HostedRun | None, why: str) -> None:
        """Have the attempts on a loop begun anew elsewhere, but for that which is at fault."""
        for run in tuple(loop.runs):
            if run is at_fault or run.ended.done() or run.calls.in_doubt:
                continue
            run.end(EndedOutside(Suspended(why), suspended=True, by_unknown=at_fault is None))
            loop.cut(run)

    def _failed(self, loop: AgentsLoop, failure: BaseException) -> None:
        """Take in that a callback ended a loop."""
        where = where_it_stands(_innermost(failure.__traceback__), AgentsLoop.serve.__code__)
        _log.error("an event loop of agents ended", loop=loop.name, where=where, why=failure)
        loop.given_up = True
        if loop is self._current and not self._is_closed:
            self._current = self._new_loop()
        why = f"the event loop of agents ended: {failure!r}"
        self._begin_anew(loop, None, why)
        for run in tuple(loop.runs):
            run.end(EndedOutside(AgentsEnded(why), retryable=True))

    def _over(self, loop: AgentsLoop) -> None:
        """Take in that a loop's thread is done."""
        self._loops.discard(loop)
        self._ended.set()
        for run in tuple(loop.runs):
            run.end(EndedOutside(AgentsEnded("the worker ends"), suspended=True))
            run.release()

    def _tell(self, event: str, what: Blocked, loop: AgentsLoop) -> None:
        _log.warning(
            event,
            template=what.template,
            tool=what.tool,
            seconds=round(what.seconds, 1),
            where=what.where,
            request_id=what.request_id,
            loop=loop.name,
            given_up=self.given_up,
        )


def _innermost(traceback: TracebackType | None) -> FrameType | None:
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame
