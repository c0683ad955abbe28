"""When an attempt is over, and which of its limits says so."""

from __future__ import annotations

from operator import itemgetter

from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.errors import AttemptTimedOut, Expired, MillstreamError
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.runs.errors import RequestTimedOut

__all__ = ["TimeLimit", "first_limit"]

TimeLimit = tuple[float, type[MillstreamError], str]
"""The seconds that were left at an attempt's start, and the error and its words for them over."""


def first_limit(
    request: ResolvedRequest,
    template: AgentTemplate,
    *,
    started_at_ms: int,
    ends_by_ms: int | None,
) -> TimeLimit:
    """Give the limit that an attempt reaches first."""
    attempt_s = template.attempt_timeout_s
    limits: list[TimeLimit] = []
    # Where two end at once, the one that no further attempt helps counts.
    if (deadline_ms := request.deadline_ms) is not None:
        left_s = (deadline_ms - started_at_ms) / 1000
        limits.append((left_s, Expired, "the request's deadline passed"))
    if ends_by_ms is not None:
        left_s = (ends_by_ms - started_at_ms) / 1000
        message = f"the request took longer than {template.request_timeout_s:g} s"
        limits.append((left_s, RequestTimedOut, message))
    message = f"the attempt took longer than {attempt_s:g} s"
    limits.append((attempt_s, AttemptTimedOut, message))
    return min(limits, key=itemgetter(0))
