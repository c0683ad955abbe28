"""The services of a lane whose clock a test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from millstream.agents.executor import AgentExecutor, wall_clock_ms
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.streams.lane.base.context import LaneServices

__all__ = ["LIMIT_S", "Bench", "Clock", "clocked_lane"]

LIMIT_S = 3600


@dataclass
class Clock:
    """The wall clock, which a test may put forward."""

    ahead_s: int = 0

    def __call__(self) -> int:
        """Give the time."""
        return wall_clock_ms() + self.ahead_s * 1000


@dataclass
class Bench:
    """The services of a lane whose clock a test sets, and what its model was called for."""

    services: LaneServices
    clock: Clock
    called: asyncio.Event


@asynccontextmanager
async def clocked_lane(
    lane_services: Callable[..., AbstractAsyncContextManager[LaneServices]],
    world: Any,
    **of_template: object,
) -> AsyncIterator[Bench]:
    """Give a bench with a template `limited`, whose requests may take an hour."""
    fields = {"name": "limited", "kind": "chat", "request_timeout_s": LIMIT_S, **of_template}
    templates = (*BUILT_IN_TEMPLATES, AgentTemplate.model_validate(fields))
    clock, called = Clock(), asyncio.Event()

    async def on_event(event: CallbackEvent) -> None:
        if event.kind == "model_start":
            called.set()

    async with lane_services(world, templates=templates) as services:
        executor = AgentExecutor(services.factory, clock_ms=clock, on_event=on_event)
        yield Bench(replace(services, clock_ms=clock, run_agent=executor.run), clock, called)
