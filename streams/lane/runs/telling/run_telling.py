"""What a lane tells of its runs' attempts: why one follows another, and that a run is paused."""

from __future__ import annotations

from dataclasses import dataclass

from millstream.agents.attempt import RunOutcome
from millstream.agents.loop.telling.events import EventKind
from millstream.schemas.base import Reason
from millstream.schemas.events import AgentResult
from millstream.schemas.steps import StepKind
from millstream.schemas.topics import STEPS
from millstream.streams.lane.base.context import LaneContext
from millstream.streams.lane.output.writer import LaneWriter
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.runs.telling.run_states import RunStates
from millstream.streams.lane.runs.telling.step_publisher import StepPublisher
from millstream.streams.lane.state.pauses import Pauses

__all__ = ["RunTelling", "with_steps"]


@dataclass(frozen=True, slots=True)
class _Cause:
    """Why an attempt follows another."""

    kind: StepKind
    reason: Reason | None = None
    failed_model: str | None = None


class RunTelling:
    """Tells of the attempts of one lane's runs.

    Steps are written for templates that want them, and of each attempt that follows another unless
    the template wants none at all: so a subscriber hears why the text begins anew.
    """

    def __init__(
        self, context: LaneContext, writer: LaneWriter, pauses: Pauses, states: RunStates
    ) -> None:
        self._context = context
        self._services = context.services
        self._writer = writer
        self._pauses = pauses
        self.states = states

    async def begins(self, run: Run, attempt: int) -> StepPublisher | None:
        """Tell that an attempt begins; gives where its steps go, `None` if they are not wanted."""
        cause = self._cause(run)
        self.states.to("running", run.request, attempt)
        if cause is not None and cause.kind in {"retry", "fallback"}:
            event: EventKind = "retry" if cause.kind == "retry" else "fallback"
            self.states.tell(event, run.request, attempt, name=run.plan.model, reason=cause.reason)
        wanted = run.plan.template.steps
        if wanted == "none" or (
            wanted == "tools" and cause is None and not run.plan.template.tools
        ):
            return None
        steps = StepPublisher(
            self._services.producer,
            request=run.request,
            attempt=attempt,
            clock_ms=self._services.clock_ms,
            topic=self._context.settings.topic(STEPS.name),
            partition=self._context.partition,
            source=self._writer.source,
            traceparent=run.traceparent,
        )
        if cause is not None:
            await steps.tell(
                cause.kind,
                name=run.plan.model,
                reason=cause.reason,
                failed_model=cause.failed_model,
            )
        return steps

    async def cancelled(self, run: Run, steps: StepPublisher | None) -> None:
        """Tell that an attempt was cut off by a cancel; returns once its steps are acknowledged."""
        if steps is not None:
            await steps.tell("cancelled", reason=run.cancelled and run.cancelled.reason)
            await steps.flush()

    async def over(
        self, run: Run, outcome: RunOutcome, steps: StepPublisher | None, *, model: str, again: bool
    ) -> None:
        """Tell that an attempt is over; returns once its steps are acknowledged.

        `model` is the one that it called, `again`: another attempt is to follow.
        """
        if again:
            await self._followed(run, outcome, steps, model)
        if steps is not None:
            await steps.flush()

    def held(self, run: Run, attempt: int) -> None:
        """Take in that a run may not begin: it is paused, or its lane drains."""
        if self._pauses.is_paused(run.key, run.session):
            self.states.to("paused", run.request, attempt)

    async def _followed(
        self, run: Run, outcome: RunOutcome, steps: StepPublisher | None, model: str
    ) -> None:
        reason, attempt = outcome.result.reason, outcome.result.attempt
        if outcome.suspended and self._pauses.is_paused(run.key, run.session):
            run.cause = None
            if steps is not None:
                await steps.tell("paused")
            # Asked again: it may have been resumed meanwhile.
            if self._pauses.is_paused(run.key, run.session):
                self.states.to("paused", run.request, attempt)
                return
            run.cause = _Cause("resumed")
        elif outcome.suspended:
            run.cause = _Cause("restart", reason)
        elif run.plan.model != model and outcome.model_failed:
            run.cause = _Cause("fallback", reason, failed_model=model)
        else:
            run.cause = _Cause("retry", reason)
        self.states.to("idle", run.request, attempt, reason=reason)

    def _cause(self, run: Run) -> _Cause | None:
        was_resumed = self.states.take_resumed(run.key)
        known, run.cause = run.cause, None
        if run.tries == 0 and not run.may_follow:
            return None
        if was_resumed:
            return _Cause("resumed")
        if isinstance(known, _Cause):
            return known
        return _Cause("restart") if run.failure is None else _Cause("retry", run.failure)


def with_steps(result: AgentResult, steps: StepPublisher | None) -> AgentResult:
    """Give a result that says how many steps its attempt has."""
    if steps is None or not steps.next_seq:
        return result
    return result.model_copy(update={"steps": steps.next_seq})
