"""The outcome of an attempt whose own loop cannot tell it any more."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from millstream.agents.executor import RunOutcome
from millstream.agents.factory import RunPlan
from millstream.agents.loop.under_way import Spending
from millstream.schemas.base import NO_USAGE
from millstream.schemas.errors import Expired
from millstream.schemas.events import AgentResult, ResolvedRequest
from millstream.schemas.reasons import reason_of

__all__ = ["ended_outside"]


def ended_outside(
    error: BaseException,
    *,
    request: ResolvedRequest,
    plan: RunPlan,
    attempt: int,
    told: Sequence[str],
    spending: Spending | None,
    at_ms: int,
    started_at_ms: int,
    **ending: Any,
) -> RunOutcome:
    """Give the failed outcome of an attempt.

    `told` are the pieces of text that left as its tokens. `ending` are further fields of
    `RunOutcome`. What is charged are the calls that are over; where the attempt is at fault, also
    what is estimated for those under way.
    """
    text = "".join(told)
    result = AgentResult(
        tenant=request.tenant,
        user_id=request.user_id,
        request_id=request.request_id,
        session_id=request.session_id,
        at_ms=at_ms,
        status="expired" if isinstance(error, Expired) else "failed",
        reason=reason_of(error),
        output=text if told else None,
        text_sha256=hashlib.sha256(text.encode()).hexdigest() if told else None,
        template=plan.template.name,
        template_version=plan.template.version,
        model=plan.model,
        attempt=attempt,
        last_seq=len(told) - 1,
        usage=NO_USAGE if spending is None else spending.usage,
        source=request.source,
        accepted_at_ms=request.at_ms,
        started_at_ms=started_at_ms,
        metadata=request.metadata,
    )
    if spending is None:
        return RunOutcome(result, None, **ending)
    return RunOutcome(
        result,
        None,
        calls=tuple(spending.calls),
        estimate_reason=spending.estimate_reason,
        **ending,
    )
