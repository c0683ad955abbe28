"""Tells of one attempt's calls: as steps, to listeners, and to who counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping, Sequence
from time import monotonic
from typing import Any, Final
from uuid import UUID

import structlog
from langchain_core.messages import AIMessage, ToolCall, ToolMessage

from millstream.agents.loop.containment import is_cancelled_from_outside, raised_by_code
from millstream.agents.loop.telling.events import (
    DETAIL_CHARS_MAX,
    CallbackEvent,
    EventKind,
    OnCallbackEvent,
)
from millstream.agents.loop.telling.listeners import Listeners
from millstream.agents.loop.telling.statistics import Statistics
from millstream.agents.loop.telling.step_writer import StepWriter, cut
from millstream.agents.models.ends import finish_reason_of
from millstream.agents.models.media.labels import labelled_text
from millstream.schemas.base import Reason, Usage
from millstream.schemas.errors import LaneLost
from millstream.schemas.events import FinishReason, ResolvedRequest
from millstream.schemas.ports import ClockMs
from millstream.schemas.reasons import reason_of, words_of
from millstream.schemas.steps import ARGUMENTS_BYTES_MAX, RESULT_BYTES_MAX

__all__ = ["Teller", "ToolTelling", "tell_run"]

TOOL_FAILED: Final = "tool_failed"
NOT_MADE: Final = "tool_call_not_made"

_CALLS: Final = frozenset(
    {"model_start", "model_end", "model_error", "tool_start", "tool_end", "tool_error"}
)

_log = structlog.get_logger(__name__)


class Teller:
    """Tells of one attempt. What nobody wants to hear is not made.

    `steps` take part in the run: what they raise, it raises. `on_event` is awaited in the run, and
    is told of its calls only; what it raises is logged. `listeners` are told of everything.
    """

    def __init__(
        self,
        request: ResolvedRequest,
        *,
        attempt: int,
        model: str,
        clock_ms: ClockMs,
        steps: StepWriter | None = None,
        listeners: Listeners | None = None,
        on_event: OnCallbackEvent | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        self.steps = steps
        self.statistics = Statistics() if statistics is None else statistics
        self.model = model
        # The ids of the agent's own calls of tools that are being made.
        self.tools_under_way: set[str | None] = set()
        self._clock_ms = clock_ms
        self._on_event = on_event
        self._listeners = listeners
        kinds = frozenset() if listeners is None else listeners.kinds
        self.wanted: frozenset[str] = kinds if on_event is None else kinds | _CALLS
        self.hears_tokens = "token" in kinds
        self.is_heard = steps is not None or bool(self.wanted)
        self._of_run = _of_run(request, attempt) if self.wanted else {}

    async def event(self, kind: EventKind, **told: Any) -> None:
        """Tell an event to who wants it. Raises only that the run is cancelled meanwhile."""
        if kind not in self.wanted:
            return
        if (detail := told.get("detail")) is not None:
            told["detail"] = detail[:DETAIL_CHARS_MAX]
        made = CallbackEvent(kind=kind, at_ms=self._clock_ms(), **self._of_run, **told)
        if self._listeners is not None:
            self._listeners.tell(made)
        if self._on_event is None or kind not in _CALLS:
            return
        try:
            await self._on_event(made)
        # Whatever a listener raises, it is a guest.
        except BaseException as raised:
            if is_cancelled_from_outside(asyncio.current_task(), raised):
                raise
            _log.exception("a listener of callback events failed", kind=kind)

    # The calls of models.

    async def model_started(
        self, run_id: UUID, model: str | None, *, is_own: bool, tags: Sequence[str] | None
    ) -> None:
        """Tell that a model is called: `model`, or the agent's own."""
        name = model or self.model
        if is_own and self.steps is not None:
            await self.steps.write("model_start", name=name, call_id=str(run_id))
        await self.event("model_start", run_id=run_id, name=name, tags=tuple(tags or ()))

    async def model_ended(
        self,
        run_id: UUID,
        model: str | None,
        *,
        is_own: bool,
        tags: Sequence[str] | None,
        seconds: float,
        usage: Usage,
        finish_reason: FinishReason | None,
        tools: Sequence[str],
    ) -> None:
        """Tell that a model has answered, by calls of `tools` or without."""
        name, took = model or self.model, _ms(seconds)
        if is_own and self.steps is not None:
            await self.steps.write(
                "model_end",
                name=name,
                call_id=str(run_id),
                duration_ms=took,
                usage=usage,
                finish_reason=finish_reason,
            )
        told = {"run_id": run_id, "tags": tuple(tags or ()), "usage": usage, "duration_ms": took}
        await self.event("model_end", name=name, **told)
        if is_own:
            await self.event("agent_step", name=", ".join(tools), **told)

    async def model_failed(
        self,
        run_id: UUID,
        model: str | None,
        error: BaseException,
        reason: Reason,
        *,
        is_own: bool,
        tags: Sequence[str] | None,
        seconds: float,
    ) -> None:
        """Tell that a model gave no answer; `reason` is what the error means."""
        name, took = model or self.model, _ms(seconds)
        # A run that is cancelled waits for nothing any more.
        if is_own and self.steps is not None and not isinstance(error, asyncio.CancelledError):
            await self.steps.write(
                "model_error", name=name, call_id=str(run_id), duration_ms=took, reason=reason
            )
        await self.event(
            "model_error",
            run_id=run_id,
            name=name,
            detail=words_of(error),
            tags=tuple(tags or ()),
            duration_ms=took,
            reason=reason,
        )

    async def model_recorded(self, said: AIMessage) -> None:
        """Tell of an answer that an earlier attempt was given."""
        if self.steps is not None:
            told: dict[str, Any] = {"name": self.model, "call_id": said.id, "recorded": True}
            await self.steps.write("model_start", **told)
            finish_reason = finish_reason_of(said) or "unknown"
            await self.steps.write("model_end", finish_reason=finish_reason, **told)

    # The calls of tools.

    def of_tool(self, call: ToolCall, tags: Sequence[str] | None = None) -> ToolTelling:
        """Tell of a call of the agent's own tool."""
        return ToolTelling(self, call, tuple(tags or ()))


class ToolTelling:
    """Tells of one call of a tool. `is_told`: it was told of, so it was made."""

    def __init__(self, teller: Teller, call: ToolCall, tags: tuple[str, ...]) -> None:
        self.is_told = False
        self._teller = teller
        self._call = call
        self._tags = tags

    async def made(self, making: Awaitable[Any]) -> Any:
        """Tell that the call begins, make it, and tell what came of it, in order."""
        self.is_told = True
        teller = self._teller
        try:
            await self._starts()
        except BaseException:
            if hasattr(making, "close"):
                making.close()
            raise
        began_s = monotonic()
        teller.tools_under_way.add(self._call["id"])
        try:
            answer = await making
        except BaseException as error:
            seconds = monotonic() - began_s
            teller.statistics.end_tool(self._call["name"], seconds, failed=True)
            # Of a run that is cancelled from outside, or whose lane is lost, nothing more is told.
            is_over = is_cancelled_from_outside(asyncio.current_task(), error)
            if not is_over and not isinstance(error, LaneLost | GeneratorExit):
                await self._failed(reason_of(raised_by_code(error)), seconds)
            raise
        finally:
            teller.tools_under_way.discard(self._call["id"])
        seconds = monotonic() - began_s
        failed = _is_error(answer)
        teller.statistics.end_tool(self._call["name"], seconds, failed=failed)
        if teller.is_heard:
            await self._ended(answer, seconds, failed=failed)
        return answer

    async def not_made(self, answer: Any, *, recorded: bool = False) -> None:
        """Tell of a call that was not made, and why; `answer` is what the model is told.

        Of one that is `recorded` an earlier attempt has told listeners.
        """
        if self._teller.is_heard:
            await self._starts(recorded=recorded)
            reason = Reason(code=NOT_MADE, message=_text_of(answer))
            await self._failed(reason, 0.0, recorded=recorded)

    async def recorded(self, answer: Any) -> None:
        """Tell of a call that an earlier attempt made."""
        if self._teller.steps is None:
            return
        await self._starts(recorded=True)
        await self._ended(answer, 0.0, failed=_is_error(answer), recorded=True)

    async def _starts(self, *, recorded: bool = False) -> None:
        teller = self._teller
        if not teller.is_heard:
            return
        arguments = json.dumps(self._call["args"], ensure_ascii=False, default=str)
        if teller.steps is not None:
            told, was_cut = cut(arguments, ARGUMENTS_BYTES_MAX)
            await teller.steps.write(
                "tool_start",
                name=self._call["name"],
                call_id=self._call["id"],
                arguments=told,
                arguments_cut=was_cut,
                recorded=recorded,
            )
        if not recorded:
            await self._event("tool_start", detail=arguments)

    async def _ended(
        self, answer: Any, seconds: float, *, failed: bool, recorded: bool = False
    ) -> None:
        text = _text_of(answer)
        if failed:
            reason = Reason(code=TOOL_FAILED, message=text)
            await self._failed(reason, seconds, recorded=recorded)
            return
        if (steps := self._teller.steps) is not None:
            told, was_cut = cut(text, RESULT_BYTES_MAX)
            await steps.write(
                "tool_end",
                name=self._call["name"],
                call_id=self._call["id"],
                result=told,
                result_cut=was_cut,
                duration_ms=_ms(seconds),
                recorded=recorded,
            )
        if not recorded:
            await self._event("tool_end", detail=text, duration_ms=_ms(seconds))

    async def _failed(self, reason: Reason, seconds: float, *, recorded: bool = False) -> None:
        words = cut(reason.message, RESULT_BYTES_MAX)[0]
        if (steps := self._teller.steps) is not None:
            await steps.write(
                "tool_error",
                name=self._call["name"],
                call_id=self._call["id"],
                duration_ms=_ms(seconds),
                reason=reason.model_copy(update={"message": words}),
                recorded=recorded,
            )
        if not recorded:
            await self._event("tool_error", detail=words, duration_ms=_ms(seconds), reason=reason)

    async def _event(self, kind: EventKind, **told: Any) -> None:
        name, call_id = self._call["name"], self._call["id"]
        await self._teller.event(kind, name=name, call_id=call_id, tags=self._tags, **told)


def tell_run(
    listeners: Listeners, kind: EventKind, request: ResolvedRequest, attempt: int, **told: Any
) -> None:
    """Tell listeners of a run, from outside of its attempts."""
    if kind in listeners.kinds:
        listeners.tell(CallbackEvent(kind=kind, **_of_run(request, attempt), **told))


def _of_run(request: ResolvedRequest, attempt: int) -> Mapping[str, Any]:
    return {
        "tenant": request.tenant,
        "user_id": request.user_id,
        "session_id": request.session_id,
        "request_id": request.request_id,
        "template": request.template,
        "attempt": attempt,
    }


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _is_error(answer: Any) -> bool:
    return isinstance(answer, ToolMessage) and answer.status == "error"


def _text_of(answer: Any) -> str:
    """Give what the model is told by a tool's answer, as text."""
    if isinstance(answer, ToolMessage):
        return labelled_text(answer.content)
    if isinstance(answer, list):
        return "\n".join(_text_of(one) for one in answer)
    update = getattr(answer, "update", None)
    messages = update.get("messages", ()) if isinstance(update, dict) else ()
    return "\n".join(_text_of(one) for one in messages if isinstance(one, ToolMessage))
