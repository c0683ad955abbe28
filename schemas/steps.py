"""What a run does beside writing: its calls of models and tools, and what became of its attempts.

The fields follow three vocabularies, so that a gateway maps them without loss: AG-UI's events
(`TOOL_CALL_START`, `_ARGS`, `_END` and `_RESULT` are `tool_start` and `tool_end`, joined by
`call_id`), OpenTelemetry's GenAI names (`name` is `gen_ai.tool.name` or `gen_ai.request.model`,
`call_id` is `gen_ai.tool.call.id`, `usage` is `gen_ai.usage.*`, `reason.code` is `error.type`) and
OpenAI's streaming of responses (`text_bytes` places a call between two pieces of the text).
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from millstream.schemas.base import Count, Reason, Usage
from millstream.schemas.events import FinishReason, RequestEvent

__all__ = [
    "ARGUMENTS_BYTES_MAX",
    "BEGINS_ATTEMPT",
    "RESULT_BYTES_MAX",
    "AgentStep",
    "StepKind",
]

ARGUMENTS_BYTES_MAX: Final = 8_192
"""Bytes of a tool call's arguments that a step tells, as JSON text in UTF-8."""

RESULT_BYTES_MAX: Final = 8_192
"""Bytes of a tool's result that a step tells, in UTF-8."""

StepKind = Literal[
    "model_start",
    "model_end",
    "model_error",
    "tool_start",
    "tool_end",
    "tool_error",
    "retry",
    "fallback",
    "restart",
    "resumed",
    "paused",
    "cancelled",
]

BEGINS_ATTEMPT: Final = frozenset({"retry", "fallback", "restart", "resumed"})
"""The kinds that say why an attempt follows another; each is the first step of its attempt."""


class AgentStep(RequestEvent):
    """A step of a run.

    (`request_id`, `attempt`, `seq`) name it; `seq` counts these records from 0 within an attempt,
    without a gap, apart from the seq of its tokens. A higher attempt supersedes the steps of every
    lower one, as it does with tokens.

    An attempt that follows another begins with the step that says why: `retry` (the one before
    failed, `reason` says how), `fallback` (its model failed; `name` is the model that is asked now,
    `failed_model` the one that failed), `resumed` (after a pause) or `restart` (the one before was
    lost with its worker, or stopped through no fault of its own). `paused` and `cancelled` end an
    attempt.

    `model_start`, `model_end` and `model_error` are the calls of the agent's own model `name`;
    `tool_start`, `tool_end` and `tool_error` those of its tool `name`. `call_id` joins the steps of
    a call: a tool's is the one that the model gave. Each `tool_start` of an attempt that comes to
    its end is followed by a `tool_end` or `tool_error`, in the order in which parallel calls end.
    `arguments` are JSON text, `result` is what the model is told; both are cut to 8,192 bytes of
    UTF-8, and then `arguments_cut` or `result_cut` is true. `duration_ms` is how long the call
    took. `recorded`: an earlier attempt made the call, and its answer was taken from there.

    `text_bytes` is how many bytes of the attempt's text, in UTF-8, were written before the step.
    """

    title: ClassVar[str] = "A step of a run: a call of a model or tool, a retry, a pause"

    type: Literal["step"] = "step"
    attempt: Count
    seq: Count
    kind: StepKind
    name: str | None = None
    call_id: str | None = None
    arguments: str | None = None
    arguments_cut: bool = False
    result: str | None = None
    result_cut: bool = False
    duration_ms: Count | None = None
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    reason: Reason | None = None
    failed_model: str | None = None
    recorded: bool = False
    text_bytes: Count = 0

    @property
    def event_id(self) -> str:
        """Request, attempt and sequence number."""
        return f"{self.request_id}:{self.attempt}:step:{self.seq}"
