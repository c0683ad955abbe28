"""A template that some lanes have and others lack, and requests that wait for it."""

from __future__ import annotations

from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from tests.harness.memory_lanes import MemoryLanes, OneLane
from tests.support import eventually

__all__ = ["NEW", "WITH_NEW", "patient", "waits"]

NEW = AgentTemplate(name="new", version="7")
WITH_NEW = (*BUILT_IN_TEMPLATES, NEW)


def patient(world: MemoryLanes, **changes: object) -> MemoryLanes:
    """Requests wait for as long as a test may take, also for what nobody has heard of."""
    return world.changed(template_unknown_wait_s=300, **changes)


async def waits(owner: OneLane, count: int = 1) -> None:
    """Await that so many requests wait, parked."""
    await eventually(lambda: owner.lane.waiting == count and len(owner.acked) >= count)
