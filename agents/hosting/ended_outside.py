"""The outcome of an attempt whose own loop cannot tell it any more."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from millstream.agents.attempt import RunOutcome, status_after
from millstream.agents.factory import RunPlan
from millstream.schemas.base import NO_USAGE, CallUsage
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.reasons import reason_of, result_of

__all__ = ["ended_outside"]


def ended_outside(
    error: BaseException,
    *,
    request: ResolvedRequest,
    plan: RunPlan,
    attempt: int,
    told: Sequence[str],
    calls: Sequence[CallUsage],
    at_ms: int,
    started_at_ms: int,
    **ending: Any,
) -> RunOutcome:
    """Give the failed outcome of an attempt.

    `told` are the pieces of text that left as its tokens, `calls` what it is to be charged for.
    `ending` are further fields of `RunOutcome`.
    """
    text = "".join(told)
    result = result_of(
        request,
        at_ms=at_ms,
        status=status_after(error),
        reason=reason_of(error),
        output=text if told else None,
        text_sha256=hashlib.sha256(text.encode()).hexdigest() if told else None,
        template_version=plan.template.version,
        model=plan.model,
        attempt=attempt,
        last_seq=len(told) - 1,
        usage=sum((one.usage for one in calls), NO_USAGE),
        started_at_ms=started_at_ms,
    )
    return RunOutcome(result, None, calls=tuple(calls), **ending)
