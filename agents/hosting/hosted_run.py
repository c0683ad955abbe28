"""One attempt that the lane's loop waits for, and that a loop of agents runs."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from millstream.agents.attempt import RunOutcome
from millstream.agents.executor import RunAgent, nothing_to_load
from millstream.agents.factory import RunPlan
from millstream.agents.hosting.mailbox import Mailbox
from millstream.agents.loop.calls import Calls
from millstream.agents.loop.containment import enter_run, is_cancelled_from_outside
from millstream.agents.loop.time_limits import first_limit
from millstream.agents.loop.under_way import Spending, UnderWay
from millstream.agents.tools.caller import NO_CLAIMS
from millstream.schemas.errors import MillstreamError
from millstream.schemas.events import AgentToken, CheckpointSaved, ResolvedRequest
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.ports import (
    BeforeCall,
    CommitStep,
    EmitSteps,
    EmitToken,
    LoadCheckpoint,
    ReserveCall,
)
from millstream.schemas.runs.reservations import NextCall
from millstream.schemas.steps import AgentStep

_log = structlog.get_logger(__name__)

__all__ = ["EndedOutside", "HostedRun"]


@dataclass(frozen=True, slots=True)
class EndedOutside:
    """An attempt that is over for the lane, whatever its own loop comes to.

    `suspended`: it is to be begun anew, and not at fault. `retryable`: another may fare better.
    `by_unknown`: what ended it may be its own doing.
    """

    error: BaseException
    suspended: bool = False
    retryable: bool = False
    by_unknown: bool = False


@dataclass(slots=True, eq=False)
class HostedRun:
    """An attempt. What the lane hands to it is awaited on the lane's loop, wherever it is asked.

    Attributes:
        ended: Is done, on the lane's loop, once the attempt is over.
        gone: Is done, on the lane's loop, once nothing of it runs any more, as far as is known.
        closed: Nothing that it does counts any more.
        told: The text of each token that left, in order.
        spending: What it had used when it was over for the lane.
    """

    request: ResolvedRequest
    plan: RunPlan
    attempt: int
    load_checkpoint: LoadCheckpoint
    emit: EmitToken
    announce: bool
    before_call: BeforeCall | None
    ends_by_ms: int | None
    calls: Calls
    started_at_ms: int
    lane: Mailbox
    ended: asyncio.Future[RunOutcome | EndedOutside]
    gone: asyncio.Future[None]
    under_way: UnderWay
    context: contextvars.Context
    told: list[str]
    emit_step: EmitSteps | None = None
    steps_from: int = 0
    session_metadata: Mapping[str, str] = field(default_factory=lambda: NO_CLAIMS)
    commit_step: CommitStep | None = None
    reserve_call: ReserveCall | None = None
    closed: bool = False
    spending: Spending | None = None
    there: Mailbox | None = None
    task: asyncio.Task[None] | None = None
    _hops: dict[asyncio.Future[Any], asyncio.Task[Any]] | None = None
    _emitting: asyncio.Task[Any] | None = None
    _stopped: BaseException | None = None

    def limit_passed(self, now_ms: int) -> MillstreamError | None:
        """Give the error of the time limit that has passed, `None` while none has."""
        left_s, told_by, message = first_limit(
            self.request,
            self.plan.template,
            started_at_ms=self.started_at_ms,
            ends_by_ms=self.ends_by_ms,
        )
        return told_by(message) if now_ms >= self.started_at_ms + left_s * 1000 else None

    # On the lane's loop.

    def end(self, outcome: RunOutcome | EndedOutside) -> None:
        """Take the attempt for over, unless it is already."""
        self.closed = True
        if not self.ended.done():
            self.spending = self.under_way.spending
            self.ended.set_result(outcome)

    def release(self) -> None:
        """Let those go on who wait until nothing of it runs."""
        if not self.gone.done():
            self.gone.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Hand on what its loop could not turn into an outcome: `LaneLost`, or its own end."""
        self.closed = True
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # looked at, should nobody wait any more
        self.release()

    def close(self) -> None:
        """Let nothing of it count any more, nor a token that is on its way."""
        self.closed = True
        if self._emitting is not None:
            self._emitting.cancel()

    async def settle(self) -> None:
        """End what is still awaited for it here; a token that is on its way is waited for."""
        self.closed = True
        hops = set(self._hops.values()) if self._hops else set()
        for hop in hops:
            if hop is not self._emitting:
                hop.cancel()
        if hops:
            await asyncio.wait(hops)

    def _begin_hop(
        self, call: Callable[..., Awaitable[Any]], args: tuple[Any, ...], answer: Any
    ) -> None:
        if self.closed:
            return  # it is cancelled, and hears of that instead
        task: asyncio.Task[Any] = asyncio.ensure_future(call(*args))
        if self._hops is None:
            self._hops = {}
        self._hops[answer] = task
        if call is self.emit:
            self._emitting = task
        task.add_done_callback(lambda ended: self._end_hop(ended, answer, call, args))

    def _end_hop(self, task: asyncio.Task[Any], answer: Any, call: object, args: Any) -> None:
        assert self._hops is not None  # noqa: S101  it had this one
        assert self.there is not None  # noqa: S101  it came from there
        del self._hops[answer]
        if call is self.emit:
            self._emitting = None
            if not task.cancelled() and task.exception() is None:
                self.told.append(args[0].text)
        self.there.post(_give, answer, task)

    def _cancel_hop(self, answer: Any) -> None:
        if self._hops and (task := self._hops.get(answer)) is not None:
            task.cancel()

    # On the loop of agents.

    def begin(self, there: Mailbox, loop: asyncio.AbstractEventLoop, run_here: RunAgent) -> None:
        """Begin, on the loop of agents."""
        self.there = there
        self.under_way.stop = self._stop
        self.context.run(enter_run, self.under_way)
        self.task = loop.create_task(self._run(run_here), context=self.context)

    def cut(self) -> None:
        """Cancel what runs, on the loop of agents."""
        if self.task is not None:
            self.task.cancel()

    def _stop(self, raised: BaseException) -> None:
        """End it by what a callback of its own raised."""
        self._stopped = raised
        self.cut()

    async def _run(self, run_here: RunAgent) -> None:
        try:
            loads = self.load_checkpoint
            outcome = await run_here(
                self.request,
                self.plan,
                attempt=self.attempt,
                load_checkpoint=loads if loads is nothing_to_load else self._load_there,
                emit=self._emit_there,
                announce=self.announce,
                before_call=None if self.before_call is None else self._before_call_there,
                ends_by_ms=self.ends_by_ms,
                calls=self.calls,
                emit_step=None if self.emit_step is None else self._emit_step_there,
                steps_from=self.steps_from,
                session_metadata=self.session_metadata,
                commit_step=None if self.commit_step is None else self._commit_there,
                reserve_call=None if self.reserve_call is None else self._reserve_there,
            )
        # Whatever it is, it is raised again where the lane awaits the attempt.
        except BaseException as error:
            if isinstance(error, GeneratorExit) and is_cancelled_from_outside(self.task, error):
                raise
            if self._stopped is None:
                self.lane.post(self.fail, error)
            else:
                request_id = self.request.request_id
                _log.error("a callback exited", request_id=request_id, exc_info=self._stopped)
                self.lane.post(self._ended_by_itself, EndedOutside(self._stopped))
        else:
            self.lane.post(self._ended_by_itself, outcome)
        finally:
            # What is left of it may be held by cycles; its task is done with.
            self.task = None

    def _ended_by_itself(self, outcome: RunOutcome | EndedOutside) -> None:
        self.end(outcome)
        self.release()

    async def _emit_there(self, token: AgentToken) -> None:
        await self._hop(self.emit, token)

    async def _emit_step_there(self, steps: Sequence[AgentStep]) -> None:
        assert self.emit_step is not None  # noqa: S101  else it is not handed on
        await self._hop(self.emit_step, steps)

    async def _commit_there(self, fact: JournalStep, *, next_call: NextCall | None = None) -> None:
        assert self.commit_step is not None  # noqa: S101  else it is not handed on
        await self._hop(partial(self.commit_step, next_call=next_call), fact)

    async def _reserve_there(self, call: NextCall) -> None:
        assert self.reserve_call is not None  # noqa: S101  else it is not handed on
        await self._hop(self.reserve_call, call)

    async def _before_call_there(self) -> None:
        assert self.before_call is not None  # noqa: S101  else it is not handed on
        await self._hop(self.before_call)

    async def _load_there(self) -> CheckpointSaved | None:
        loaded: CheckpointSaved | None = await self._hop(self.load_checkpoint)
        return loaded

    async def _hop(self, call: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self.lane.post(self._begin_hop, call, args, answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self.lane.post(self._cancel_hop, answer)
            raise


def _give(answer: asyncio.Future[Any], task: asyncio.Task[Any]) -> None:
    """Answer with what a task of the other loop came to; it is done."""
    if answer.done():
        return
    if task.cancelled():
        answer.cancel()
    elif (error := task.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())
