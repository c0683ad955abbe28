"""A request's result, with what it takes over from its request."""

from __future__ import annotations

from typing import Any

from millstream.schemas.events import AgentResult, ResolvedRequest

__all__ = ["result_of"]


def result_of(request: ResolvedRequest, *, at_ms: int, **fields: Any) -> AgentResult:
    """Give the result of a request; `fields` say its status and all else that is known of it."""
    return AgentResult(
        tenant=request.tenant,
        user_id=request.user_id,
        request_id=request.request_id,
        session_id=request.session_id,
        at_ms=at_ms,
        template=request.template,
        source=request.source,
        accepted_at_ms=request.at_ms,
        metadata=request.metadata,
        **fields,
    )
