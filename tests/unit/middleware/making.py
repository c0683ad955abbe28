"""Makes requests, contexts and results for the middleware's tests."""

from __future__ import annotations

from millstream.middleware.base import AttemptUsage, MiddlewareContext
from millstream.schemas.base import Address, Usage
from millstream.schemas.events import (
    AgentRequest,
    AgentResult,
    AttemptStarted,
    ResolvedRequest,
    ResultStatus,
)

NOON_MS = 1_790_000_000_000 // 86_400_000 * 86_400_000 + 43_200_000
DAY_MS = 86_400_000


def request(
    request_id: str = "r1",
    *,
    user_id: str = "ada",
    tenant: str = "default",
    template: str = "chat_agent",
    text: str = "hello",
    at_ms: int = NOON_MS,
) -> ResolvedRequest:
    """Make a request as a lane works on it."""
    return AgentRequest(
        user_id=user_id, tenant=tenant, template=template, input=text, request_id=request_id
    ).resolved(Address(topic="requests", partition=0, offset=7), at_ms)


def context(
    asked: ResolvedRequest, *, model: str = "local", output_tokens_max: int = 100
) -> MiddlewareContext:
    """Make what the layers see of a request: it may read 100 tokens, and write as many."""
    return MiddlewareContext(
        request=asked,
        now_ms=asked.at_ms,
        model=model,
        output_tokens_max=output_tokens_max,
        input_tokens_max=100,
    )


def result(
    asked: ResolvedRequest,
    *,
    status: ResultStatus = "completed",
    usage: Usage | None = None,
    model: str | None = "local",
) -> AgentResult:
    """Make the result of a run that took a second."""
    return AgentResult(
        tenant=asked.tenant,
        user_id=asked.user_id,
        request_id=asked.request_id,
        session_id=asked.session_id,
        status=status,
        usage=usage or Usage(),
        model=model,
        source=asked.source,
        accepted_at_ms=asked.at_ms,
        at_ms=asked.at_ms + 1000,
    )


def used(
    tokens: int,
    *,
    model: str | None = "local",
    known: bool = True,
    started: AttemptStarted | None = None,
) -> AttemptUsage:
    """Make what an attempt used that wrote some tokens."""
    return AttemptUsage(
        attempt=started.attempt if started else 0,
        model=model,
        template="chat_agent",
        usage=Usage(output_tokens=tokens),
        usage_known=known,
        started=started,
    )
