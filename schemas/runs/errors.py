"""Why a run that was let in ends without its answer: for its model, a tool, or a limit.

Their tree is drawn in `../errors.py`.
"""

from __future__ import annotations

from millstream.schemas.errors import Terminal

__all__ = [
    "AnswerCut",
    "AttemptsExhausted",
    "CheckpointUnreadable",
    "ContentRefused",
    "ContentUnsupported",
    "InDoubt",
    "InputTooLong",
    "InterruptUnsupported",
    "ModelCallsExhausted",
    "ModelUnavailable",
    "QuotaExhausted",
    "RequestTimedOut",
    "ToolCallCut",
    "ToolFailed",
    "ToolStuck",
]


class ModelUnavailable(Terminal):
    """The model cannot be used here; the message says which package or key is missing."""

    code = "model_unavailable"


class InputTooLong(Terminal):
    """The conversation has more tokens than the model's context."""

    code = "input_too_long"


class ContentUnsupported(Terminal):
    """The model takes no content of this kind; no call was made. The message says what to do."""

    code = "content_unsupported"


class QuotaExhausted(Terminal):
    """The account at the model's provider has no quota or credit left; waiting does not help."""

    code = "quota_exhausted"


class ContentRefused(Terminal):
    """The model's provider refused the question, or all of the answer, for its content."""

    code = "content_refused"


class AnswerCut(Terminal):
    """The answer was cut at its limit of tokens, and its template takes only whole ones."""

    code = "answer_cut"


class ModelCallsExhausted(Terminal):
    """The agent asked for more model calls than its template allows."""

    code = "model_calls_exhausted"


class AttemptsExhausted(Terminal):
    """The request was begun as often as one owner may begin it, or as many owners may lose it."""

    code = "attempts_exhausted"


class RequestTimedOut(Terminal):
    """The request's attempts, and the waits between them, took longer than its template allows."""

    code = "request_timed_out"


class ToolCallCut(Terminal):
    """The model's answer reached its limit of tokens inside a tool call; it would do so again."""

    code = "tool_call_cut"


class ToolFailed(Terminal):
    """A tool whose registration says that its errors end the run raised one."""

    code = "tool_failed"


class ToolStuck(Terminal):
    """A synchronous tool did not end in time; its thread goes on, and what it does is not known."""

    code = "tool_stuck"


class InDoubt(Terminal):
    """A call with an effect may have been made, and its outcome is not known; names the calls."""

    code = "in_doubt"


class InterruptUnsupported(Terminal):
    """The agent's graph interrupted itself to ask a person, which no run can be answered yet."""

    code = "interrupt_unsupported"


class CheckpointUnreadable(Terminal):
    """The session's committed checkpoint was found but cannot be opened."""

    code = "checkpoint_unreadable"
