"""What listeners are told of a run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Literal
from uuid import UUID

from millstream.agents.loop.telling.run_states import RunState
from millstream.schemas.base import Count, EpochMs, Frozen, Reason, Usage

__all__ = ["DETAIL_CHARS_MAX", "CallbackEvent", "EventKind", "OnCallbackEvent"]

DETAIL_CHARS_MAX: Final = 2_000

EventKind = Literal[
    "model_start",
    "token",
    "model_end",
    "model_error",
    "tool_start",
    "tool_end",
    "tool_error",
    "agent_step",
    "retry",
    "fallback",
    "state",
]
"""What happened. `agent_step`: the agent's model has answered, with calls of tools or without.
`state`: the run went from one state to another."""


class CallbackEvent(Frozen):
    """Something that happened in a run.

    Attributes:
        kind: What happened.
        at_ms: When, by this machine's clock.
        run_id: LangChain's id of the call of a model or tool; `None` for what is no call.
        name: The model or tool; of an `agent_step`, the tools that are called, joined by commas.
        detail: A tool's arguments or words, a token's text, an error: cut at 2,000 characters.
        tags: The tags that the model or tool has in LangChain.
        call_id: The id that the model gave to the call of a tool.
        tenant, user_id, session_id, request_id, template, attempt: Whose run it is.
        duration_ms: How long the call took that ended.
        usage: What the call of a model used.
        reason: Why another attempt is made, or the run ended without an answer.
        state: The state that the run is in now.
        from_state: The state that it was in before.
    """

    kind: EventKind
    at_ms: EpochMs
    run_id: UUID | None = None
    name: str | None = None
    detail: str | None = None
    tags: tuple[str, ...] = ()
    call_id: str | None = None
    tenant: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    request_id: str | None = None
    template: str | None = None
    attempt: Count | None = None
    duration_ms: Count | None = None
    usage: Usage | None = None
    reason: Reason | None = None
    state: RunState | None = None
    from_state: RunState | None = None


OnCallbackEvent = Callable[[CallbackEvent], Awaitable[None]]
"""Takes a run's events as they happen; what it raises is logged and never fails the run."""
