"""The results of runs that somebody ended, or a limit, or their own code: not their agents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from millstream.agents.attempt import RunOutcome
from millstream.schemas.base import Reason
from millstream.schemas.errors import Terminal
from millstream.schemas.events import AgentResult
from millstream.schemas.reasons import reason_of, result_of
from millstream.schemas.runs.errors import RequestTimedOut
from millstream.streams.lane.output.outcomes import CutOff
from millstream.streams.lane.runs.run import Run
from millstream.streams.lane.runs.telling.token_publisher import TokenPublisher

__all__ = ["failed_by", "out_of_time", "refused", "written"]


def refused(run: Run, refusal: Terminal, *, attempt: int, at_ms: int) -> AgentResult:
    """Give the failed result of a run that may not begin another attempt."""
    reason = _told_with(reason_of(refusal), run.failure)
    failed: dict[str, Any] = {"status": "failed", "reason": reason}
    if run.last is not None:
        return run.last.result.model_copy(update=failed)
    return result_of(
        run.request,
        at_ms=at_ms,
        attempt=attempt,
        model=run.plan.model,
        usage=run.spent_usage,
        **failed,
    )


def written(
    run: Run, tokens: TokenPublisher, how: CutOff, *, attempt: int, at_ms: int
) -> AgentResult:
    """Give the result of a run whose attempt was cut off, behind what it has written."""
    return result_of(
        run.request,
        at_ms=at_ms,
        status=how.status,
        reason=how.reason,
        attempt=attempt,
        last_seq=tokens.last_seq,
        text_sha256=tokens.text_sha256,
        model=run.plan.model,
    )


def failed_by(outcome: RunOutcome, why: Terminal) -> RunOutcome:
    """Give the outcome of an attempt that failed behind its agent: its text is not all there."""
    failed: dict[str, Any] = {"status": "failed", "output": None, "structured": None}
    result = outcome.result.model_copy(update={**failed, "reason": reason_of(why)})
    return replace(
        outcome,
        result=result,
        checkpoint=None,
        retryable=False,
        suspended=False,
        model_failed=False,
        invalid=None,
    )


def out_of_time(run: Run, failed: RunOutcome) -> RunOutcome:
    """Give the outcome of a run that failed, and whose next attempt would begin too late."""
    message = (
        f"another attempt would begin after the request's {run.plan.template.request_timeout_s:g} s"
    )
    reason = _told_with(reason_of(RequestTimedOut(message)), failed.result.reason)
    return replace(failed, result=failed.result.model_copy(update={"reason": reason}))


def _told_with(reason: Reason, before: Reason | None) -> Reason:
    """Give the reason that ended a run with that of the attempt before, which it must not hide."""
    if before is None:
        return reason
    message = f"{reason.message}; the last attempt failed: {before.code}: {before.message}"
    return reason.model_copy(update={"message": message})
