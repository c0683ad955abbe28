"""What the model calls of one attempt used: each by itself, under the name of its model.

A call that is over is charged by its provider's report, where that can be true. One that broke off,
or is still under way when the attempt is over, is estimated from what was sent and received: up to
its limit of output, unless its provider ended it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import structlog
from langchain_core.messages import AIMessage, BaseMessage

from millstream.agents.models.errors import ended_by_provider, was_refused
from millstream.agents.models.resolve import MODEL_NAME
from millstream.agents.models.usage import DOUBT, UNSEEN_TOKENS_MAX, ModelCall
from millstream.schemas.base import NO_USAGE, CallUsage, Usage

__all__ = ["CallMeter"]

NAME_CHARS_MAX: Final = 256
UNKNOWN_MODEL: Final = "unknown"

_log = structlog.get_logger(__name__)


class CallMeter:
    """Counts the model calls of an attempt, also those that its tools make, in whatever thread.

    `output_tokens_max` is the limit of one call of the agent's own model. Once it is closed it
    counts no more: what a tool left running behind its run is named in the log. The log names
    `request_id`, and the agent's own model as `model`.
    """

    def __init__(
        self, output_tokens_max: int, *, request_id: str | None = None, model: str | None = None
    ) -> None:
        self._output_tokens_max = output_tokens_max
        self._request_id = request_id
        self._model = model
        self._under_way: dict[UUID, ModelCall] = {}
        self._over: list[CallUsage] = []
        # Tools call models in threads of their own.
        self._lock = threading.Lock()
        self._closed = False

    @property
    def usage(self) -> Usage:
        """What the calls that are over used, of all models."""
        return sum((one.usage for one in self._over), NO_USAGE)

    @property
    def over(self) -> tuple[CallUsage, ...]:
        """What the calls that are over used."""
        return tuple(self._over)

    def begin(
        self,
        run_id: UUID,
        messages: Sequence[BaseMessage],
        params: Mapping[str, Any],
        metadata: Mapping[str, Any],
        *,
        is_own: bool,
    ) -> ModelCall:
        """Begin to count a call."""
        model = None if is_own else _name_of(metadata)
        limit = self._output_tokens_max if is_own else 0
        call = ModelCall(messages, params, is_own=is_own, model=model, answer_tokens_max=limit)
        if self._closed:
            _log.error(
                "a model is called by what a run left behind; nobody pays",
                request_id=self._request_id,
                model=model or self._model,
            )
        else:
            self._under_way[run_id] = call
        return call

    @property
    def awaits_model(self) -> bool:
        """Whether a call of the agent's own model is under way."""
        return any(call.is_own for call in tuple(self._under_way.values()))

    def most(self, call: ModelCall) -> Usage:
        """Give the most that a call may use, by what it sends and its limit of output."""
        return call.estimate(self._limit(call))

    def others(self, call: ModelCall) -> tuple[CallUsage, ...]:
        """Give what is reserved for the calls that are under way beside this one."""
        return tuple(
            CallUsage(one.most, one.model)
            for one in tuple(self._under_way.values())
            if one is not call and one.most is not None
        )

    def under_way(self, run_id: UUID) -> ModelCall | None:
        """Give a call that is under way."""
        return self._under_way.get(run_id)

    def forget(self, run_id: UUID) -> None:
        """Count nothing for a call: it was not made."""
        self._under_way.pop(run_id, None)

    def end(self, run_id: UUID, message: AIMessage | None) -> ModelCall | None:
        """Count a call that gave its answer; gives it, `None` if it is not known."""
        call = self._under_way.pop(run_id, None)
        if call is None:
            return None
        told = call.told()
        if message is not None:
            told = message.usage_metadata if told is None else told
            call.doubt = call.doubt or message.response_metadata.get(DOUBT)
        limit = self._output_tokens_max
        if not call.is_own:
            limit = call.asked_output_tokens_max or UNSEEN_TOKENS_MAX
        usage, doubt = call.believed(told, message, limit)
        self._count(call, usage, doubt)
        return call

    def fail(self, run_id: UUID, error: BaseException) -> ModelCall | None:
        """Count a call that gave none: nothing, where its provider refused it before a word.

        Gives it, `None` if it is not known.
        """
        call = self._under_way.pop(run_id, None)
        if call is None or (not call.received_bytes and was_refused(error)):
            return call
        used = call.broken_off(self._limit(call), is_over=ended_by_provider(error))
        self._count(call, used, f"a model call broke off: {type(error).__name__}")
        return call

    def close(self) -> tuple[CallUsage, ...]:
        """Give what all calls used; those under way are cut off, and estimated up to their limit.

        It may be asked again.
        """
        self._closed = True
        for run_id in tuple(self._under_way):
            call = self._under_way.pop(run_id, None)
            if call is not None:
                used = call.broken_off(self._limit(call), is_over=False)
                self._count(call, used, "a model call was cut off")
        return tuple(self._over)

    def _limit(self, call: ModelCall) -> int:
        # Of a tool's model without a limit nobody knows more than of the agent's own.
        return (not call.is_own and call.asked_output_tokens_max) or self._output_tokens_max

    def _count(self, call: ModelCall, usage: Usage, doubt: str | None) -> None:
        if doubt is not None:
            doubt = doubt.encode(errors="replace").decode()
        call.used = usage
        with self._lock:
            self._over.append(CallUsage(usage, call.model, doubt))
        if doubt is not None:
            _log.warning(
                "the usage of a model call is estimated",
                request_id=self._request_id,
                reason=doubt,
                model=call.model or self._model,
            )


def _name_of(metadata: Mapping[str, Any]) -> str:
    """Give the name of a tool's model: the one that it was resolved by, else as LangChain has it.

    Which is the provider's and the model's own name, as `resolve_model` takes it.
    """
    given = metadata.get(MODEL_NAME)
    if not isinstance(given, str):
        parts = (metadata.get("ls_provider"), metadata.get("ls_model_name"))
        given = ":".join(str(part) for part in parts if part)
    # A foreign name may hold half a character, which no record takes.
    return given[:NAME_CHARS_MAX].encode(errors="replace").decode() or UNKNOWN_MODEL
