"""The steps of one attempt, numbered, one after the other."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from millstream.agents.sessions.text import well_formed
from millstream.schemas.errors import LaneLost
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.ports import ClockMs, EmitStep
from millstream.schemas.steps import AgentStep, StepKind

__all__ = ["StepWriter", "cut"]


class StepWriter:
    """Emits the steps of one attempt, numbered from `seq_from`.

    `text_bytes` gives how much of the attempt's text is written. `emit` is never called twice at a
    time, and a call of it is never cut short: whether the step is out would not be known. What it
    raises is raised by the `write` that meets it and by each one after.
    """

    def __init__(
        self,
        request: ResolvedRequest,
        *,
        attempt: int,
        emit: EmitStep,
        clock_ms: ClockMs,
        text_bytes: Callable[[], int],
        seq_from: int = 0,
    ) -> None:
        self._request = request
        self._attempt = attempt
        self._emit = emit
        self._clock_ms = clock_ms
        self._text_bytes = text_bytes
        self._next_seq = seq_from
        self._emitting = asyncio.Lock()
        self._sending: set[asyncio.Task[None]] = set()
        # Of whoever makes the writer: what emits is not the run's code, and holds nothing of it.
        self._context = contextvars.copy_context()
        self._failure: Exception | None = None
        self._is_closed = False

    async def write(self, kind: StepKind, **told: Any) -> None:
        """Emit a step. Raises what `emit` raised."""
        if self._is_closed:
            return
        told["text_bytes"] = self._text_bytes()
        sending = asyncio.get_running_loop().create_task(
            self._send(kind, told), context=self._context
        )
        self._sending.add(sending)
        sending.add_done_callback(self._sent)
        await asyncio.shield(sending)

    async def close(self) -> None:
        """Emit no more; what is on its way is waited for. Raises `LaneLost` if a step met it."""
        self._is_closed = True
        while self._sending:
            await asyncio.wait(tuple(self._sending))
        if isinstance(self._failure, LaneLost):
            raise self._failure

    async def abandon(self) -> None:
        """Emit no more, and wait for nothing: for a run that is cancelled, or over."""
        self._is_closed = True
        for task in self._sending:
            task.cancel()
        if self._sending:
            await asyncio.wait(tuple(self._sending))

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        # Looked at, or asyncio logs it as never retrieved.
        if not task.cancelled():
            task.exception()

    async def _send(self, kind: StepKind, told: dict[str, Any]) -> None:
        async with self._emitting:
            if self._failure is not None:
                raise self._failure
            request = self._request
            step = AgentStep(
                tenant=request.tenant,
                user_id=request.user_id,
                request_id=request.request_id,
                session_id=request.session_id,
                at_ms=self._clock_ms(),
                attempt=self._attempt,
                seq=self._next_seq,
                kind=kind,
                **told,
            )
            try:
                await self._emit(step)
            except Exception as error:
                self._failure = error
                raise
            self._next_seq += 1


def cut(text: str, bytes_max: int) -> tuple[str, bool]:
    """Give a text as UTF-8 can hold it, of at most so many bytes, and whether it was cut."""
    text = well_formed(text)
    data = text.encode()
    if len(data) <= bytes_max:
        return text, False
    return data[:bytes_max].decode(errors="ignore"), True
