"""The way of steps: as that of tokens, beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from millstream.schemas.errors import Terminal
from millstream.schemas.events import ResolvedRequest
from millstream.schemas.ports import ClockMs
from millstream.schemas.steps import AgentStep, StepKind
from millstream.streams.lane.base.context import PlainProducer
from millstream.streams.lane.runs.telling.publisher import PlainPublisher

__all__ = ["StepPublisher"]

log = structlog.get_logger(__name__)


class StepPublisher(PlainPublisher):
    """Writes one attempt's steps: those of its agent, and those of the lane before and after them.

    A step that is on its way to the producer is not cut short: else it were unknown whether its
    `seq` is taken.
    """

    what = "steps"

    def __init__(
        self,
        producer: PlainProducer,
        *,
        request: ResolvedRequest,
        attempt: int,
        clock_ms: ClockMs,
        **where: Any,
    ) -> None:
        super().__init__(producer, **where)
        self._request = request
        self._attempt = attempt
        self._clock_ms = clock_ms
        self._text_bytes = 0
        self._sending: set[asyncio.Task[None]] = set()
        self._in_order = asyncio.Lock()

    @property
    def next_seq(self) -> int:
        """The number of the next step, which is how many there are."""
        return self.last_seq + 1

    async def write(self, steps: Sequence[AgentStep]) -> None:
        """Hand steps of the agent to the producer. Raises what `send` does."""
        await self._write(lambda: steps)

    async def tell(self, kind: StepKind, **told: Any) -> None:
        """Write a step of the lane's own, behind all others. Raises what `send` does."""
        request = self._request

        def make() -> Sequence[AgentStep]:
            step = AgentStep(
                tenant=request.tenant,
                user_id=request.user_id,
                request_id=request.request_id,
                session_id=request.session_id,
                at_ms=self._clock_ms(),
                attempt=self._attempt,
                seq=self.next_seq,
                kind=kind,
                text_bytes=self._text_bytes,
                **told,
            )
            return (step,)

        await self._write(make)

    async def flush(self) -> None:
        """Return once every step is acknowledged. Raises `LaneLost` if one is not.

        What its topic refuses is lost, and the log says so: its run has an outcome that stands.
        """
        while self._sending:
            await asyncio.wait(tuple(self._sending))
        try:
            await super().flush()
        except Terminal as refused:
            log.warning(
                "a step was not written", request_id=self._request.request_id, reason=str(refused)
            )

    async def _write(self, make: Callable[[], Sequence[AgentStep]]) -> None:
        sending = asyncio.ensure_future(self._in_turn(make))
        self._sending.add(sending)
        sending.add_done_callback(self._was_sent)
        await asyncio.shield(sending)

    async def _in_turn(self, make: Callable[[], Sequence[AgentStep]]) -> None:
        async with self._in_order:
            for step in make():
                self.last_seq, self._text_bytes = step.seq, step.text_bytes
                await self.send(step)

    def _was_sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        # Looked at, or asyncio logs it as never retrieved.
        if not task.cancelled():
            task.exception()
