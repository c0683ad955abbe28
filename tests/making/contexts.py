"""Makes what the layers see of a request, and what an attempt used."""

from __future__ import annotations

from millstream.middleware.base import AttemptUsage, MiddlewareContext
from millstream.schemas.base import Usage
from millstream.schemas.events import AttemptStarted, ResolvedRequest


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
