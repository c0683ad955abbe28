"""Agents of lanes in tests, on an event loop of their own as in a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory, ResolveModel
from millstream.agents.hosting.agents_loop import AgentsOfLoop
from millstream.agents.hosting.blocked import Blocked
from millstream.agents.hosting.host import AgentHost, HostLimits
from millstream.agents.loop.callbacks import CallbackEvent, OnCallbackEvent
from millstream.agents.models.resolve import resolve_model

__all__ = ["QUICK", "hosted"]

QUICK = HostLimits(warn_s=0.1, blocked_max_s=0.3, given_up_max=2)
"""For tests in which code blocks: it is noticed at once."""


@asynccontextmanager
async def hosted(
    factory: AgentFactory,
    *,
    on_event: OnCallbackEvent | None = None,
    limits: HostLimits | None = None,
    on_blocked: Callable[[Blocked], None] = lambda _: None,
    on_stuck: Callable[[], None] = lambda: None,
    resolve: ResolveModel = resolve_model,
    **of_executor: Any,
) -> AsyncIterator[AgentHost]:
    """Host the agents of a factory; `on_event` is called on the loop of the test."""
    loop = asyncio.get_running_loop()

    async def tell(event: CallbackEvent) -> None:
        assert on_event is not None
        told = asyncio.run_coroutine_threadsafe(on_event(event), loop)  # type: ignore[arg-type]
        await asyncio.wrap_future(told)

    def build() -> AgentsOfLoop:
        executor = AgentExecutor(factory.twin(resolve), on_event=on_event and tell, **of_executor)
        return AgentsOfLoop(executor.run)

    host = AgentHost(build, limits=limits, on_blocked=on_blocked, on_stuck=on_stuck)
    try:
        yield host
    finally:
        await host.close()
