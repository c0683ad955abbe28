"""One call of the local engine: its events, its errors, and how its caller stops it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from millstream.schemas.errors import ModelFailed, Terminal
from millstream.schemas.runs.errors import InputTooLong

__all__ = ["Call", "Deliver", "Event", "Finished", "Piece"]

_HTTP_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of the answer: as a rule one token."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer; tokens as the engine counts them, its chat template included."""

    reason: str
    input_tokens: int
    input_tokens_cached: int
    output_tokens: int


Event = Piece | Finished
Deliver = Callable[[Event | BaseException], object]


class Call:
    """One call: what the worker thread hands over, and how its caller stops it."""

    def __init__(self, deliver: Deliver) -> None:
        self.stopped = threading.Event()
        self.future: Future[None] | None = None
        self._deliver = deliver
        self._ended = False
        self._finish_reason = "stop"
        self._error: Exception | None = None

    def stop(self) -> None:
        """Leave the queue if the call still waits there, else stop before the next token."""
        self.stopped.set()
        if self.future is not None:
            self.future.cancel()

    def hand_over(self, event: Event | BaseException) -> None:
        """Give an event to the caller, unless it has left."""
        if not self.stopped.is_set():
            self._deliver(event)

    def on_chunk(self, chunk: dict[str, Any]) -> bool:
        """Take one chunk of an OpenAI chat stream; return whether the engine shall stop.

        The engine drops exceptions raised in here, so `raise_unless_ended` tells them by the
        missing end.
        """
        if self.stopped.is_set():
            return True
        if "error" in chunk:
            self._error = _error_of(chunk["error"])
            return True
        for choice in chunk["choices"]:
            self._finish_reason = choice["finish_reason"] or self._finish_reason
            if text := choice["delta"].get("content"):
                self.hand_over(Piece(text))
        if usage := chunk.get("usage"):
            self._ended = True
            self.hand_over(
                Finished(
                    reason=self._finish_reason,
                    input_tokens=usage["prompt_tokens"],
                    input_tokens_cached=usage["prompt_tokens_details"]["cached_tokens"],
                    output_tokens=usage["completion_tokens"],
                )
            )
        return False

    def raise_unless_ended(self) -> None:
        """Raise what the engine reported, or that it broke off."""
        if self._error is not None:
            raise self._error
        if not self._ended and not self.stopped.is_set():
            message = "the local model broke off in the middle of its answer"
            raise ModelFailed(message)


def _error_of(error: Mapping[str, Any]) -> Exception:
    if error["type"] == "exceed_context_size_error":
        return InputTooLong(
            f"the conversation has {error['n_prompt_tokens']} tokens, "
            f"the local model's context holds {error['n_ctx']}"
        )
    if error["code"] < _HTTP_SERVER_ERROR:
        return Terminal(f"the local model refused the request: {error['message']}")
    return ModelFailed(f"the local model failed: {error['message']}")
