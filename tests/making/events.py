"""One maker for each event: of ada's request `r1` in her session `s`, unless a test says otherwise.

What a maker is given beyond that overrides what it would fill in, by the event's own field names.
"""

from __future__ import annotations

import hashlib
from typing import Any

from millstream.schemas.base import Address, Reason, Usage
from millstream.schemas.control.templates import TemplateApplied
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.events import (
    AgentRequest,
    AgentResult,
    AgentToken,
    AttemptStarted,
    CheckpointSaved,
    CostRecorded,
    Decision,
    RequestEvent,
    ResolvedRequest,
    SessionUpdated,
)
from millstream.schemas.lane_events import CommandObeyed, LaneOpened
from millstream.schemas.steps import AgentStep, StepKind

IDS = {"user_id": "ada", "request_id": "r1", "session_id": "s"}
SOURCE = Address(topic="requests", partition=0, offset=0)
NOON_MS = 1_790_000_000_000 // 86_400_000 * 86_400_000 + 43_200_000


def ids(event: RequestEvent | ResolvedRequest) -> dict[str, str]:
    """Give whose an event is, for one of the same request."""
    return {name: getattr(event, name) for name in ("tenant", *IDS)}


def request(text: str = "hi", **fields: Any) -> AgentRequest:
    """Make a request as an upstream writes it: without ids, which a lane would fill in."""
    return AgentRequest(**{"user_id": "ada", "input": text, **fields})


def resolved(
    text: str = "hi", *, at_ms: int = NOON_MS, source: Address = SOURCE, **fields: Any
) -> ResolvedRequest:
    """Make a request as a lane works on it, accepted at noon."""
    return AgentRequest(**{**IDS, "input": text, **fields}).resolved(source, at_ms)


def token(text: str = "hi", seq: int = 0, attempt: int = 1000, **fields: Any) -> AgentToken:
    """Make a piece of an answer."""
    return AgentToken(**{**IDS, "text": text, "seq": seq, "attempt": attempt, **fields})


def step(
    kind: StepKind = "tool_start", seq: int = 0, attempt: int = 1000, **fields: Any
) -> AgentStep:
    """Make a step of a run."""
    return AgentStep(**{**IDS, "kind": kind, "seq": seq, "attempt": attempt, **fields})


def result(output: str | None = None, **fields: Any) -> AgentResult:
    """Make the result of a run that completed, with the hash of its text."""
    digest = None if output is None else hashlib.sha256(output.encode()).hexdigest()
    made = {"status": "completed", "source": SOURCE, "accepted_at_ms": 1}
    return AgentResult(**{**IDS, "output": output, "text_sha256": digest, **made, **fields})


def result_of(asked: ResolvedRequest, **fields: Any) -> AgentResult:
    """Make the result of a run of this request that took a second."""
    times = {"accepted_at_ms": asked.at_ms, "at_ms": asked.at_ms + 1000}
    return result(**{**ids(asked), "source": asked.source, "model": "local", **times, **fields})


def decision(**fields: Any) -> Decision:
    """Make a decision that admits."""
    return Decision(**{**IDS, "admitted": True, "generation": 1, "source": SOURCE, **fields})


def attempt(**fields: Any) -> AttemptStarted:
    """Make the mark of an attempt that reserved nothing."""
    made = {"model": "m", "usage_max": Usage(), "reserved_micros": 0, "price_digest": "d"}
    return AttemptStarted(**{**IDS, "attempt": 1000, **made, **fields})


def cost(**fields: Any) -> CostRecorded:
    """Make what an attempt spent: nothing."""
    made = {"model": "m", "usage": Usage(), "cost_micros": 0, "price_digest": "d"}
    return CostRecorded(**{**IDS, **made, **fields})


def checkpoint(turn: int = 1, **fields: Any) -> CheckpointSaved:
    """Make the state of a session after a turn: request `r<turn>`, checkpoint `c<turn>`."""
    made = {"request_id": f"r{turn}", "checkpoint_id": f"c{turn}", "turn": turn, "data": ""}
    return CheckpointSaved(**{**IDS, **made, **fields})


def head(turn: int = 1, **fields: Any) -> SessionUpdated:
    """Make the head of a session after a turn, whose checkpoint stands at `turn` or behind it."""
    made = {"request_id": f"r{turn}", "checkpoint_id": f"c{turn}", "turn": turn}
    return SessionUpdated(
        **{**IDS, **made, "checkpoint_offset_min": turn, "created_at_ms": 1, **fields}
    )


def obeyed(**fields: Any) -> CommandObeyed:
    """Make the mark of a cancel."""
    return CommandObeyed(**{"user_id": "ada", "command": "cancel", "source": SOURCE, **fields})


def opened(generation: int = 1, **fields: Any) -> LaneOpened:
    """Make the record of an owner that took over partition 0."""
    made = {"stage": "chain", "partition": 0, "generation": generation, "worker": "w"}
    return LaneOpened(**{**made, **fields})


def template_applied(**fields: Any) -> TemplateApplied:
    """Make the record of a template `own`, version 1, that says nothing."""
    made = {"name": "own", "version": "1", "content": {"name": "own"}, "digest": "0" * 32}
    return TemplateApplied(**{**made, **fields})


def dead_letter(**fields: Any) -> DeadLetter:
    """Make the dead letter of a record of another shape."""
    reason = Reason(code="wrong_shape", message="no")
    return DeadLetter(**{"reason": reason, "source": SOURCE, "source_at_ms": 1, **fields})
