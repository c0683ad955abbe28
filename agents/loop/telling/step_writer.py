"""The steps of one attempt, numbered, one after the other."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, Final

from millstream.agents.sessions.text import well_formed
from millstream.schemas.errors import LaneLost
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.ports import ClockMs, EmitSteps
from millstream.schemas.steps import AgentStep, StepKind

__all__ = ["StepWriter", "cut"]

RECORDED_MAX: Final = 64
"""Recorded steps that are gathered: as many as may be on their way to the broker."""


NAME_BYTES_MAX: Final = 1_024
"""Bytes of a name or id that a model gave, in UTF-8: it may have any length."""

_NAMES: Final = ("name", "call_id")


class StepWriter:
    """Emits the steps of one attempt, numbered from `seq_from`.

    `text_bytes` gives how much of the attempt's text is written. `emit` is never called twice at a
    time, and a call of it is never cut short: whether the steps are out would not be known. What it
    raises is raised by the `write` that meets it and by each one after.

    A `recorded` step leaves with the next one that is not, or with the last of `RECORDED_MAX`: a
    run of many steps that goes on elsewhere does not wait for each of them.
    """

    def __init__(
        self,
        request: ResolvedRequest,
        *,
        attempt: int,
        emit: EmitSteps,
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
        self._gathered: list[tuple[StepKind, int, dict[str, Any]]] = []
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
        for name in _NAMES:
            if (given := told.get(name)) is not None:
                told[name], _ = cut(given, NAME_BYTES_MAX)
        self._gathered.append((kind, self._clock_ms(), told))
        if told.get("recorded") and len(self._gathered) < RECORDED_MAX:
            return
        await asyncio.shield(self._leaving())

    async def close(self) -> None:
        """Emit what is gathered, and no more. Raises `LaneLost` if a step met it."""
        self._is_closed = True
        if self._gathered:
            self._leaving()
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

    def _leaving(self) -> asyncio.Task[None]:
        sending = asyncio.get_running_loop().create_task(self._send(), context=self._context)
        self._sending.add(sending)
        sending.add_done_callback(self._sent)
        return sending

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        # Looked at, or asyncio logs it as never retrieved.
        if not task.cancelled():
            task.exception()

    async def _send(self) -> None:
        async with self._emitting:
            if self._failure is not None:
                raise self._failure
            gathered, self._gathered = self._gathered, []
            if not gathered:
                return  # the one before took it along
            request = self._request
            steps = tuple(
                AgentStep(
                    tenant=request.tenant,
                    user_id=request.user_id,
                    request_id=request.request_id,
                    session_id=request.session_id,
                    at_ms=at_ms,
                    attempt=self._attempt,
                    seq=seq,
                    kind=kind,
                    **told,
                )
                for seq, (kind, at_ms, told) in enumerate(gathered, self._next_seq)
            )
            try:
                await self._emit(steps)
            except Exception as error:
                self._failure = error
                raise
            self._next_seq += len(steps)


def cut(text: str, bytes_max: int) -> tuple[str, bool]:
    """Give a text as UTF-8 can hold it, of at most so many bytes, and whether it was cut."""
    text = well_formed(text)
    data = text.encode()
    if len(data) <= bytes_max:
        return text, False
    return data[:bytes_max].decode(errors="ignore"), True
