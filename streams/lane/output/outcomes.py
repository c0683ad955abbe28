"""The events by which a lane says what became of a request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json

from millstream.schemas.base import FrozenDict, Reason, next_ordinal, saturated
from millstream.schemas.errors import Rejected
from millstream.schemas.events import (
    AgentResult,
    CheckpointSaved,
    Decision,
    ResolvedRequest,
    ResultStatus,
    SessionUpdated,
)
from millstream.schemas.lane_events import StageRequest
from millstream.schemas.reasons import reason_of, result_of
from millstream.schemas.topics import RECORD_BYTES_MAX, TopicSpec
from millstream.streams.wire.digests import digest_of


@dataclass(frozen=True, slots=True)
class CutOff:
    """How a request ends that somebody ended: the status of its result, and why."""

    status: ResultStatus
    reason: Reason


_METADATA_BYTES_MAX: Final = RECORD_BYTES_MAX // 2
"""More than 32 values take, in JSON, whatever their characters are: their keys have no bound."""

CANCELLED = CutOff("cancelled", Reason(code="cancelled", message="cancelled by its user"))


def refusal(
    request: ResolvedRequest, rejection: Rejected, *, stage: str, generation: int
) -> Decision:
    """Give the decision on a request that no layer was asked about."""
    return Decision(
        tenant=request.tenant,
        user_id=request.user_id,
        request_id=request.request_id,
        session_id=request.session_id,
        at_ms=request.at_ms,
        stage=stage,
        admitted=False,
        reason=reason_of(rejection),
        template=request.template,
        request_digest=request.digest,
        generation=generation,
        source=request.source,
    )


def oversized_result(
    request: ResolvedRequest, events: Iterable[object], *, at_ms: int, reason: Reason
) -> AgentResult:
    """Give the failed result of a request whose outcome cannot be written, with what it spent.

    Without what may be large: what was answered and thought, and metadata that is.
    """
    lost = next((event for event in events if isinstance(event, AgentResult)), None)
    small: dict[str, Any] = {"status": "failed", "reason": reason}
    if len(to_json(request.metadata)) > _METADATA_BYTES_MAX:
        small["metadata"] = FrozenDict()
    if lost is None:
        return result_of(request, at_ms=at_ms, status="failed").model_copy(update=small)
    small |= {"output": None, "structured": None, "reasoning": None}
    return lost.model_copy(update=small)


def stage_request(
    request: ResolvedRequest, decision: Decision, before: StageRequest | None, to: TopicSpec
) -> StageRequest:
    """Give the record by which a stage hands a request to the next one."""
    return StageRequest(
        tenant=request.tenant,
        user_id=request.user_id,
        at_ms=request.at_ms,
        stage=to.name.removeprefix("stage-"),
        passed=(*(before.passed if before else ()), *decision.passed),
        request=request,
        reserved_micros=saturated(
            (before.reserved_micros if before else 0) + decision.reserved_micros
        ),
        template_version=decision.template_version,
    )


def session_head(
    checkpoint: CheckpointSaved,
    before: SessionUpdated | None,
    *,
    offset_min: int,
    result: AgentResult | None = None,
    created_at_ms: int | None = None,
) -> SessionUpdated:
    """Give a session's new head; `checkpoint` will stand at `offset_min` or behind.

    `result` is that of the turn which left the checkpoint. `created_at_ms` is since when the
    session exists, `None`: since its first turn.
    """
    if before is not None:
        created_at_ms = before.created_at_ms
    cost_micros = result.cost_micros if result else 0
    return SessionUpdated(
        tenant=checkpoint.tenant,
        user_id=checkpoint.user_id,
        request_id=checkpoint.request_id,
        session_id=checkpoint.session_id,
        at_ms=checkpoint.at_ms,
        checkpoint_id=checkpoint.checkpoint_id,
        checkpoint_offset_min=offset_min,
        turn=checkpoint.turn,
        checkpoint_digest=digest_of(checkpoint),
        checkpoint_bytes=len(checkpoint.data),
        template=result.template if result else None,
        cost_micros=saturated(cost_micros + (before.cost_micros if before else 0)),
        created_at_ms=checkpoint.at_ms if created_at_ms is None else created_at_ms,
    )


def next_turn(checkpoint: CheckpointSaved, before: SessionUpdated | None) -> CheckpointSaved:
    """Give a checkpoint as its session's next turn: it may follow another one than the newest."""
    if before is None or checkpoint.turn > before.turn:
        return checkpoint
    return checkpoint.model_copy(update={"turn": next_ordinal(before.turn)})
