"""One attempt of one run: from an admitted request to its result, whatever happens on the way.

Invariant (P3): a result's `output` is the text of the attempt's token records 0 to `last_seq`,
joined, and `text_sha256` the hash of it; so what a subscriber was shown is what was answered. The
token stream carries all that the agent writes, also between tool calls, and so does `output`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Protocol

import structlog
from langchain_core.messages import SystemMessage
from langgraph.errors import GraphRecursionError

from millstream.agents.attempt import Attempt, RunOutcome
from millstream.agents.factory import AgentFactory, RunPlan
from millstream.agents.loop.agent import Invocation
from millstream.agents.loop.answer_ends import Ending
from millstream.agents.loop.callbacks import AgentCallbackHandler, OnCallbackEvent
from millstream.agents.loop.calls import Calls
from millstream.agents.loop.containment import (
    ContainedRun,
    is_cancelled_from_outside,
    raised_by_code,
    run_now,
)
from millstream.agents.loop.journal.asked import AskedDigest, RunBase
from millstream.agents.loop.journal.reserving import Reserving
from millstream.agents.loop.journal.writing import Journal
from millstream.agents.loop.model_gate import RunContext
from millstream.agents.loop.telling.listeners import Listeners
from millstream.agents.loop.telling.statistics import Statistics
from millstream.agents.loop.telling.step_writer import StepWriter
from millstream.agents.loop.telling.teller import Teller
from millstream.agents.loop.time_limits import first_limit
from millstream.agents.loop.token_writer import TokenWriter
from millstream.agents.loop.under_way import UnderWay
from millstream.agents.models.call_meter import CallMeter
from millstream.agents.models.media.takes import check_takes
from millstream.agents.sessions.checkpointer import RunCheckpointer
from millstream.agents.sessions.question import question_of
from millstream.agents.templates.structured import AnswerInvalid, checked_answer
from millstream.agents.tools.caller import NO_CLAIMS
from millstream.schemas.errors import (
    LaneLost,
    MillstreamError,
    ModelFailed,
    Retryable,
    Suspended,
)
from millstream.schemas.events import CheckpointSaved, ResolvedRequest
from millstream.schemas.ports import (
    BeforeCall,
    ClockMs,
    CommitStep,
    EmitSteps,
    EmitToken,
    LoadCheckpoint,
    ReserveCall,
    wall_clock_ms,
)
from millstream.schemas.reasons import words_of
from millstream.schemas.runs.errors import InputTooLong, ModelCallsExhausted, ToolStuck

__all__ = [
    "AgentExecutor",
    "RunAgent",
    "nothing_to_load",
    "wall_clock_ms",
]

_log = structlog.get_logger(__name__)


async def nothing_to_load() -> CheckpointSaved | None:
    """Load no checkpoint: the session is new. May be awaited on any loop."""
    return None


class RunAgent(Protocol):
    """Runs one attempt of an admitted request, as `AgentExecutor.run` does and promises."""

    async def __call__(
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
        """Give what the attempt leaves behind. Raises only `LaneLost`."""
        ...


class AgentExecutor:
    """Runs agents. Holds no state of a run, so one executor serves any number side by side.

    `on_event` is awaited inside the run, and is told of its calls of models and tools. `listeners`
    have threads of their own, and are told of everything. `statistics` counts what it ran.
    """

    def __init__(
        self,
        factory: AgentFactory,
        *,
        coalesce_s: float = 0.025,
        clock_ms: ClockMs = wall_clock_ms,
        on_event: OnCallbackEvent | None = None,
        listeners: Listeners | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        self.statistics = Statistics() if statistics is None else statistics
        self._listeners = listeners
        self._factory = factory
        self._coalesce_s = coalesce_s
        self._clock_ms = clock_ms
        self._on_event = on_event

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
        """Run an attempt to its end, and give its result and the session's next checkpoint.

        `announce` is for an attempt that follows an earlier one: its first token record, without
        text, is emitted before anything else, since what a subscriber was shown is void.
        `before_call` is awaited before each model call and each tool call; the time it takes is
        the attempt's; `Suspended` from it ends the attempt so. `ends_by_ms` is when the
        request's own time limit is reached, in milliseconds since the epoch. `calls` has what
        earlier attempts finished, which is not done again, and takes in what this one does.
        `emit_step` takes the attempt's steps, whose `seq` begins with `steps_from`. Tools are told
        `session_metadata`. `commit_step` takes what is to be known of the attempt's calls if it is
        cut off; each is committed before the next call is made. `reserve_call` is awaited before
        each call of the agent's model, and of one that its middlewares call.

        Whatever a model, tool or template does becomes a result with a reason, also that it exits
        or cancels itself. Raises only `LaneLost` (from `emit`, `load_checkpoint` or `before_call`):
        then there is no one to give a result to.
        Cancelling it stops the run and emits no more tokens.
        """
        writer = TokenWriter(
            request,
            attempt=attempt,
            emit=emit,
            coalesce_s=self._coalesce_s,
            clock_ms=self._clock_ms,
        )
        steps = emit_step and StepWriter(
            request,
            attempt=attempt,
            emit=emit_step,
            clock_ms=self._clock_ms,
            text_bytes=lambda: writer.written_bytes,
            seq_from=steps_from,
        )
        handler = self._handler(
            request, plan, attempt=attempt, writer=writer, steps=steps, before_call=before_call
        )
        handler.reserving = reserve_call and Reserving(reserve_call, handler.meter, plan.first_call)
        calls = Calls() if calls is None else calls
        calls.begin_attempt(
            handler.meter,
            handler.reserving,
            None
            if commit_step is None
            else Journal(request, attempt, commit_step, handler.meter, self._clock_ms),
        )
        under_way = run_now() or UnderWay()
        under_way.spending = handler.meter
        run = Attempt(
            request=request,
            plan=plan,
            attempt=attempt,
            writer=writer,
            handler=handler,
            session_metadata=session_metadata,
            context=RunContext(
                before_call,
                calls,
                handler,
                under_way,
                system_message=(
                    None if plan.system_prompt is None else SystemMessage(plan.system_prompt)
                ),
            ),
            started_at_ms=self._clock_ms(),
            ends_by_ms=ends_by_ms,
        )
        task = asyncio.current_task()
        began_s, became = monotonic(), "cut_off"
        self.statistics.running += 1
        try:
            with ContainedRun(run.context.under_way):
                if announce:
                    await writer.announce()
                outcome = await self._within_limits(run, load_checkpoint)
                became = outcome.result.status
                return outcome
        except LaneLost:
            raise
        # The one boundary: any other error is the run's, and ends it as a result that says so; also
        # a `SystemExit`, or a `CancelledError` that nobody cancelled this task with.
        except BaseException as caught:
            if is_cancelled_from_outside(task, caught):
                raise
            await writer.settle()
            if steps is not None:
                await steps.close()
            await calls.written()
            raised = raised_by_code(caught)
            error = run.told_by_provider(raised)
            if isinstance(error, Retryable) and (stuck := run.context.calls.stuck):
                # No second attempt beside what the first one still does.
                names = ", ".join(sorted(set(stuck.values())))
                error = ToolStuck(
                    f"{words_of(error)}; what goes on in a thread of its own: {names}"
                )
            foreseen = isinstance(error, MillstreamError)
            tell = _log.info if foreseen else _log.error
            tell(
                "a run failed",
                request_id=request.request_id,
                attempt=attempt,
                reason=words_of(error),
                exc_info=None if foreseen else raised,
            )
            # Before the result is made, which takes the calls that are under way for over.
            model_failed = run.was_failed_by_model(error)
            failed = run.failed(error, self._clock_ms())
            became = "suspended" if isinstance(error, Suspended) else failed.status
            return run.outcome(
                failed,
                None,
                retryable=isinstance(error, Retryable),
                suspended=isinstance(error, Suspended),
                retry_after_s=error.retry_after_s if isinstance(error, ModelFailed) else None,
                model_failed=model_failed,
                invalid=error.repair if isinstance(error, AnswerInvalid) else None,
            )
        finally:
            # Contexts of its tasks, which lead here, may last longer.
            run.context.under_way.spending = None
            await writer.abandon()
            if steps is not None:
                await steps.abandon()
            await calls.abandon()
            self.statistics.running -= 1
            self.statistics.end_attempt(became, monotonic() - began_s, handler.meter.over)

    def _handler(
        self,
        request: ResolvedRequest,
        plan: RunPlan,
        *,
        attempt: int,
        writer: TokenWriter,
        steps: StepWriter | None,
        before_call: BeforeCall | None,
    ) -> AgentCallbackHandler:
        return AgentCallbackHandler(
            writer,
            teller=Teller(
                request,
                attempt=attempt,
                model=plan.model,
                clock_ms=self._clock_ms,
                steps=steps,
                listeners=self._listeners,
                on_event=self._on_event,
                statistics=self.statistics,
            ),
            before_call=before_call,
            ending=Ending(
                output_tokens_max=plan.template.answer_tokens_max,
                cut=plan.template.cut_answer,
                structured=plan.template.response_format is not None,
                calls_tools=bool(plan.template.tools),
            ),
            meter=CallMeter(
                plan.template.answer_tokens_max, request_id=request.request_id, model=plan.model
            ),
        )

    async def _within_limits(self, run: Attempt, load_checkpoint: LoadCheckpoint) -> RunOutcome:
        left_s, told_by, message = first_limit(
            run.request,
            run.plan.template,
            started_at_ms=run.started_at_ms,
            ends_by_ms=run.ends_by_ms,
        )
        if left_s <= 0:
            raise told_by(f"{message} before its attempt began")
        try:
            async with asyncio.timeout(left_s) as timer:
                return await self._answer(run, load_checkpoint)
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise told_by(message) from error

    async def _answer(self, run: Attempt, load_checkpoint: LoadCheckpoint) -> RunOutcome:
        template = run.plan.template
        loaded = await load_checkpoint()
        model = run.plan.model
        calls = run.context.calls
        calls.asked = AskedDigest(_base_of(run.plan, loaded))
        checkpointer = RunCheckpointer(loaded, template, model=model, forget=calls.forgot)
        if (content := run.request.content) is not None:
            check_takes(model, self._factory.takes(run.plan), content)
        if checkpointer.has_media:
            checkpointer.show_media(self._factory.takes(run.plan))
        remembered = bool(checkpointer.messages)
        try:
            answer = await self._invoke(run, checkpointer)
        except Exception as error:
            too_long = isinstance(run.told_by_provider(error), InputTooLong)
            if not too_long or not remembered or not run.writer.empty:
                raise
            # What was remembered turned out too long in this model's tokens. Better to forget it
            # than to fail: each later run of the session would fail in the same way.
            calls.forget()
            checkpointer = RunCheckpointer(loaded, template, model=model, forget=True)
            answer = await self._invoke(run, checkpointer)
        await run.writer.finish()
        await calls.ended()
        structured = None
        if template.response_format is not None:
            structured = checked_answer(template.response_format, answer)
        at_ms = self._clock_ms()
        checkpoint = checkpointer.seal(run.request, at_ms)
        return run.outcome(run.completed(structured, at_ms), checkpoint)

    async def _invoke(self, run: Attempt, checkpointer: RunCheckpointer) -> object:
        template = run.plan.template
        run.context.calls.begin_loop()
        question = question_of(run.request)
        question.id = run.context.question_id
        invocation = Invocation(
            question=question,
            session_id=run.request.session_id,
            checkpointer=checkpointer,
            handler=run.handler,
            context=run.context,
            # Each model call but the last is followed by a step of tools.
            steps_max=2 * template.run_model_calls_max,
            caller=run.caller,
        )
        try:
            return await self._factory.create(run.plan).answer(invocation)
        except GraphRecursionError as error:
            if not template.tools and template.response_format is not None:
                message = "the model did not give its answer in the form that was asked for"
                raise AnswerInvalid(message) from error
            message = (
                f"the agent did not end within {template.run_model_calls_max} model calls, "
                "the `model_calls_max` of its template"
            )
            if (fault := run.context.calls.last_fault) is not None:
                message += f"; of its last calls one was not made: {fault}"
            raise ModelCallsExhausted(message) from error


def _base_of(plan: RunPlan, loaded: CheckpointSaved | None) -> RunBase:
    template = plan.template
    return RunBase(
        template=template.name,
        version=template.version,
        system=template.system_prompt if plan.system_prompt is None else plan.system_prompt,
        schema=template.response_format,
        base_checkpoint_id=None if loaded is None else loaded.checkpoint_id,
    )
