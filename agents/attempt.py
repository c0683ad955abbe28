"""An attempt under way, and what it leaves behind: how its end reads as a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from millstream.agents.factory import RunPlan
from millstream.agents.loop.callbacks import AgentCallbackHandler
from millstream.agents.loop.model_gate import RunContext
from millstream.agents.loop.time_limits import first_limit
from millstream.agents.loop.token_writer import TokenWriter
from millstream.agents.models.errors import as_foreseen
from millstream.agents.tools import Caller
from millstream.agents.tools.caller import NO_CLAIMS
from millstream.schemas.base import CallUsage
from millstream.schemas.errors import (
    AttemptTimedOut,
    BudgetExceeded,
    Expired,
    LayerFailed,
    ModelFailed,
    ModelUnpriced,
    Rejected,
)
from millstream.schemas.events import AgentResult, CheckpointSaved, ResolvedRequest, ResultStatus
from millstream.schemas.lane_events import AnswerRepair
from millstream.schemas.reasons import reason_of, result_of
from millstream.schemas.runs.errors import ContentUnsupported, ModelUnavailable, QuotaExhausted

__all__ = ["Attempt", "RunOutcome", "status_after"]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run leaves behind.

    `checkpoint` is there only if the run completed: else the session stays as it was. `retryable`
    says that another attempt may fare better than this failed one. `suspended` says that it was
    stopped before a call and is to be begun anew: of its result only the usage counts. Where not
    `usage_known`, more was used than the result's usage says. `calls` is the usage of each model
    call, of whatever model. `retry_after_s` is the wait that the model's provider asks for.
    `model_failed`: it is the agent's model that failed, so that another one may fare better.
    `invalid` is an answer that does not fit its schema, where the model may give it anew.
    """

    result: AgentResult
    checkpoint: CheckpointSaved | None
    retryable: bool = False
    suspended: bool = False
    usage_known: bool = True
    calls: tuple[CallUsage, ...] = ()
    retry_after_s: float | None = None
    model_failed: bool = False
    invalid: AnswerRepair | None = None


def status_after(error: BaseException) -> ResultStatus:
    """Give the status of a result that this error ended: one whose calls a layer refuses failed."""
    if isinstance(error, Expired):
        return "expired"
    was_let_in = isinstance(error, BudgetExceeded | LayerFailed | ModelUnpriced)
    return "rejected" if isinstance(error, Rejected) and not was_let_in else "failed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt under way, and how its end reads."""

    request: ResolvedRequest
    plan: RunPlan
    attempt: int
    writer: TokenWriter
    handler: AgentCallbackHandler
    context: RunContext
    started_at_ms: int
    ends_by_ms: int | None
    session_metadata: Mapping[str, str] = field(default_factory=lambda: NO_CLAIMS)

    def caller(self) -> Caller:
        """Give who asks, as the attempt's tools and middlewares are told it."""
        request, calls = self.request, self.context.calls
        left_s, *_ = first_limit(
            request,
            self.plan.template,
            started_at_ms=self.started_at_ms,
            ends_by_ms=self.ends_by_ms,
        )
        return Caller(
            tenant=request.tenant,
            user_id=request.user_id,
            request_id=request.request_id,
            session_id=request.session_id,
            attempt=self.attempt,
            deadline_ms=self.started_at_ms + round(left_s * 1000),
            template=request.template,
            model=self.plan.model,
            metadata=MappingProxyType(request.metadata),
            session_metadata=self.session_metadata,
            # Not what they are told by: nothing is to lead from them into the run.
            answers_given=lambda: calls.position,
            clock_ms=lambda: calls.now_ms(),  # noqa: PLW0108  a method leads to what it is of
        )

    def outcome(
        self, result: AgentResult, checkpoint: CheckpointSaved | None, **told: Any
    ) -> RunOutcome:
        """Give the outcome of an attempt with this result."""
        return RunOutcome(result, checkpoint, calls=self.handler.meter.close(), **told)

    def told_by_provider(self, error: BaseException) -> BaseException:
        """Give what an error of the model's provider means; any other stays as it is."""
        if error is not self.handler.model_error:
            return error
        return as_foreseen(error) or error

    def was_failed_by_model(self, error: BaseException) -> bool:
        """Whether another model may fare better: this one failed, or was silent for too long."""
        if isinstance(error, AttemptTimedOut):
            return self.handler.meter.awaits_model
        return isinstance(
            error, ContentUnsupported | ModelFailed | ModelUnavailable | QuotaExhausted
        )

    def completed(self, structured: dict[str, Any] | None, at_ms: int) -> AgentResult:
        """Give the result of an attempt that came to its end."""
        return self._result(
            "completed",
            at_ms,
            structured=structured,
            output=self.writer.text,
            text_sha256=self.writer.text_sha256,
        )

    def failed(self, error: BaseException, at_ms: int) -> AgentResult:
        """Give the result of an attempt that this error ended, with what it had shown."""
        status = status_after(error)
        # What was already shown stays part of the story; an attempt that showed nothing has none.
        wrote = self.writer.last_seq >= 0
        return self._result(
            status,
            at_ms,
            reason=reason_of(error),
            output=self.writer.text if wrote else None,
            text_sha256=self.writer.text_sha256 if wrote else None,
        )

    def _result(self, status: ResultStatus, at_ms: int, **ending: Any) -> AgentResult:
        writer = self.writer
        self.handler.meter.close()
        return result_of(
            self.request,
            at_ms=at_ms,
            status=status,
            template_version=self.plan.template.version,
            model=self.plan.model,
            attempt=self.attempt,
            last_seq=writer.last_seq,
            finish_reason=self.handler.ending.finish_reason,
            reasoning=self.handler.ending.reasoning,
            usage=self.handler.meter.usage,
            started_at_ms=self.started_at_ms,
            first_token_at_ms=writer.first_token_at_ms,
            **ending,
        )
