"""From an error to the reason that goes on the wire, and from a request to its result."""

from __future__ import annotations

from typing import Any, Final

from millstream.schemas.base import Reason
from millstream.schemas.errors import BudgetExceeded, MillstreamError, ModelFailed, RateLimited
from millstream.schemas.events import AgentResult, ResolvedRequest

__all__ = ["MESSAGE_CHARS_MAX", "reason_of", "result_of", "words_of"]

MESSAGE_CHARS_MAX: Final = 500
"""Longest message of a reason; what is beyond belongs in the log."""


def words_of(error: BaseException) -> str:
    """Give what an error says, `""` for one that cannot even say it."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001  a foreign type's own way to write itself
        return ""


def reason_of(error: BaseException) -> Reason:
    """Say why, for programs and for people, without a traceback.

    An error of Millstream's own tree gives its code and words, and `retry_after_s` where it has
    one. Any other gives the code `failed` and its type and text, so that it can be searched for.
    """
    if isinstance(error, MillstreamError):
        retry_after_s = None
        if isinstance(error, RateLimited | BudgetExceeded | ModelFailed):
            retry_after_s = error.retry_after_s
        return Reason(
            code=error.code,
            message=_bounded(words_of(error) or type(error).__name__),
            retry_after_s=retry_after_s,
        )
    text = words_of(error)
    name = type(error).__name__
    return Reason(code="failed", message=_bounded(f"{name}: {text}" if text else name))


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


def _bounded(message: str) -> str:
    # Foreign text may hold lone surrogates, which no JSON encoder takes.
    message = message.encode(errors="replace").decode()
    if len(message) <= MESSAGE_CHARS_MAX:
        return message
    return message[: MESSAGE_CHARS_MAX - 1] + "…"
