"""The callables that packages hand to each other, each named once."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from millstream.schemas.base import Event
from millstream.schemas.events import AgentToken, CheckpointSaved
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.runs.reservations import NextCall
from millstream.schemas.steps import AgentStep

EmitToken = Callable[[AgentToken], Awaitable[None]]
"""Takes a piece of an answer; returns once it may be forgotten, waits while the broker is slow."""

EmitSteps = Callable[[Sequence[AgentStep]], Awaitable[None]]
"""Takes steps of a run, in their order; returns once they may be forgotten, waits while the broker
is slow."""


class CommitStep(Protocol):
    """Commits a fact of a run; returns once it is on the log.

    Called in the order of the facts, it numbers and submits each before it waits. `next_call` is
    the model call that is likely to follow: what it may cost is reserved in the same commit, if it
    fits; if not, nobody is told. Raises `StepTooLarge` and `LaneLost`.
    """

    async def __call__(self, fact: JournalStep, *, next_call: NextCall | None = None) -> None:
        """Commit a fact."""
        ...


ReserveCall = Callable[[NextCall], Awaitable[None]]
"""Returns once what a model call may cost is reserved, and committed. Raises `BudgetExceeded` where
it does not fit, and `LaneLost`."""

BeforeCall = Callable[[], Awaitable[None]]
"""Lets a run make its next model or tool call: waits while it may not, raises if it never may."""

LoadCheckpoint = Callable[[], Awaitable[CheckpointSaved | None]]
"""Gives the newest committed checkpoint of the run's session, `None` for a new session."""

PeekCheckpoint = Callable[[str, str, str], Awaitable[CheckpointSaved | None]]
"""Asks the Redis view for a session's newest checkpoint; `None` if it has none or is away."""

Publish = Callable[[Event], Awaitable[None]]
"""Takes an event; returns once Kafka has acknowledged its record."""

ClockMs = Callable[[], int]
"""Gives the wall clock in milliseconds since the epoch."""


def wall_clock_ms() -> int:
    """Give this machine's time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
