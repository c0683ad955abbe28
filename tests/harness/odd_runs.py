"""Runs that raise anything, or have effects: what a lane is given in place of its agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

from millstream.agents.attempt import RunOutcome
from millstream.agents.factory import RunPlan
from millstream.agents.loop.calls import Calls
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.base import Reason
from millstream.schemas.events import AgentResult, ResolvedRequest
from millstream.streams.lane.runs.run import Run
from tests import making
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    Upstream,
    ask,
    lane_services,
    one_lane,
    upstream,
)

RAISES: dict[str, BaseException] = {
    "cancelled": asyncio.CancelledError(),
    "exits": SystemExit(1),
    "interrupts": KeyboardInterrupt(),
    "closes": GeneratorExit(),
    "several": BaseExceptionGroup("several", [SystemExit(1)]),
    "plain": ValueError("x"),
}
"""What a run may raise, by the input that has it do so."""


async def run_scripted(
    request: ResolvedRequest, _plan: RunPlan, *, attempt: int, calls: Calls, **_: object
) -> RunOutcome:
    """Run what the request's input says; what has `hang` as input never ends."""
    if request.input == "hang":
        await asyncio.get_running_loop().create_future()
    if (raised := RAISES.get(request.input)) is not None:
        raise raised
    if request.input == "cancels itself":
        cast("asyncio.Task[Any]", asyncio.current_task()).cancel()
        await asyncio.get_running_loop().create_future()
    result = making.result(
        user_id=request.user_id,
        request_id=request.request_id,
        session_id=request.session_id,
        at_ms=request.at_ms,
        accepted_at_ms=request.at_ms,
        source=request.source,
        attempt=attempt,
        output=f"{len(calls.effects)}",
    )
    if request.input.startswith("refunds") and not calls.effects:
        calls.effects["c1"] = "refund"
        return RunOutcome(_failed(result), checkpoint=None, retryable=True)
    if request.input == "pays":
        calls.in_doubt["c2"] = "pay"
        return RunOutcome(_failed(result), checkpoint=None, retryable=True)
    return RunOutcome(result, checkpoint=None)


def _failed(result: AgentResult) -> AgentResult:
    reason = Reason(code="model_failed", message="overloaded")
    return result.model_copy(update={"status": "failed", "reason": reason})


class OddLane:
    """The lane of ada's partition, and her session `s` at it."""

    def __init__(self, world: MemoryLanes, owner: OneLane, program: Upstream) -> None:
        self.world = world
        self.owner = owner
        self.program = program

    async def ask(self, request_id: str, text: str = "x", **more: Any) -> tuple[Any, Any]:
        """Publish a request; gives what the lane is to serve."""
        return await ask(self.program, text, request_id=request_id, session_id="s", **more)

    async def submit(self, request_id: str, text: str = "x", **more: Any) -> None:
        """Publish a request and have the lane serve it."""
        self.owner.serve(*await self.ask(request_id, text, **more))

    def run(self, request_id: str) -> Run:
        """Give a run that is in memory."""
        run = self.owner.lane._queue.find(("default", "ada", request_id))
        assert isinstance(run, Run)
        return run


@asynccontextmanager
async def odd_lane(
    world: MemoryLanes, templates: Iterable[AgentTemplate] = BUILT_IN_TEMPLATES
) -> AsyncIterator[OddLane]:
    """Open a lane whose runs do as their inputs say."""
    async with (
        lane_services(world, templates=templates) as services,
        upstream(world) as program,
        one_lane(world, replace(services, run_agent=run_scripted), None) as owner,
    ):
        yield OddLane(world, owner, program)
