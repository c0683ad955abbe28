"""Structured logs of what was decided and how it ended, with the ids to find it by."""

from __future__ import annotations

import logging
from typing import Any, Literal

import structlog

from millstream.middleware.base import AgentMiddleware, MiddlewareContext, Settlement
from millstream.schemas.events import AgentResult, Decision, ResolvedRequest, ResultStatus

Level = Literal["debug", "info", "warning", "error"]

_LEVELS: dict[ResultStatus, Level] = {
    "completed": "info",
    "failed": "error",
    "rejected": "info",
    "cancelled": "info",
    "expired": "warning",
    "interrupted": "info",
}
"""A rejected request's warning is its decision's line; its result adds nothing new."""

_TEXT_CHARACTERS_MAX = 2_000


class LoggingMiddleware(AgentMiddleware):
    """Writes `request decided` (admitted: debug, rejected: warning) and `request ended` lines.

    Times are in milliseconds: `duration_ms` from the broker's time of the request to the
    result, `first_token_ms` to the first token. Neither the input nor the output is written unless
    `contents_logged`, and then cut to 2,000 characters. Build it once logging is configured.
    """

    name = "logging"
    priority = 20

    def __init__(
        self,
        *,
        enabled: bool = True,
        contents_logged: bool = False,
        logger: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        super().__init__(enabled=enabled)
        self._contents_logged = contents_logged
        # Bound here once: the proxy that get_logger gives would bind anew at every line.
        self._log = structlog.get_logger("millstream.requests").bind() if logger is None else logger

    def decided(self, context: MiddlewareContext, decision: Decision) -> None:
        """Write what the chain decided on a request."""
        if decision.admitted and not self._log.is_enabled_for(logging.DEBUG):
            return  # of each request, and seldom wanted
        fields = _ids(context.request)
        fields["template"] = decision.template
        fields["model"] = context.model
        if self._contents_logged:
            fields["input"] = context.request.input[:_TEXT_CHARACTERS_MAX]
        if decision.admitted:
            self._log.debug("request decided", admitted=True, **fields)
            return
        if decision.reason is not None:
            fields["code"] = decision.reason.code
            fields["reason"] = decision.reason.message
        self._log.warning("request decided", admitted=False, layer=decision.layer, **fields)

    def settle(self, request: ResolvedRequest, result: AgentResult) -> Settlement:
        """Write how a request ended."""
        fields = _ids(request)
        fields.update(
            status=result.status,
            template=result.template,
            model=result.model,
            attempt=result.attempt,
            duration_ms=max(0, result.at_ms - result.accepted_at_ms),
            input_tokens=result.usage.input_tokens,
            output_tokens=result.usage.output_tokens,
            cost_micros=result.cost_micros,
        )
        if result.first_token_at_ms is not None:
            fields["first_token_ms"] = max(0, result.first_token_at_ms - result.accepted_at_ms)
        if result.reason is not None:
            fields["code"] = result.reason.code
            fields["reason"] = result.reason.message
        if self._contents_logged and result.output is not None:
            fields["output"] = result.output[:_TEXT_CHARACTERS_MAX]
        getattr(self._log, _LEVELS[result.status])("request ended", **fields)
        return Settlement(result)


def _ids(request: ResolvedRequest) -> dict[str, Any]:
    return {
        "tenant": request.tenant,
        "user_id": request.user_id,
        "request_id": request.request_id,
        "session_id": request.session_id,
        "source": str(request.source),
    }
