"""Runs that wait, and commands that are to move them to another version of their template."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.control.migrations import RunMigrationAnswered
from millstream.schemas.lane_events import HoldPlaced, RunParked
from millstream.schemas.topics import HOLDS, PARKED, RUN_MIGRATION_ANSWERS, RUN_MIGRATIONS
from tests.harness.journalled import Hold, Outside, clerk
from tests.harness.memory_lanes import (
    MemoryLanes,
    OneLane,
    Upstream,
    ask,
    give,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    upstream,
)
from tests.support import eventually

__all__ = [
    "BEHIND_PUT",
    "TEXT",
    "PausedMidway",
    "answers",
    "code_of",
    "move",
    "own",
    "paused",
    "paused_midway",
    "versions",
]


TEXT = 'call: put {"n": 1}; call: look {"n": 2} + pay {"n": 3}; say: done'
BEHIND_PUT = Hold("asked", 1)


def own(version: str, **fields: Any) -> AgentTemplate:
    """Give a version of the template `own`, whose model says which it is."""
    given = {"name": "own", "version": version, "models": (f"scripted:say: {version}",), **fields}
    return AgentTemplate.model_validate(given)


def versions(*names: str) -> tuple[AgentTemplate, ...]:
    """Give the built-in templates, and `own` in so many versions, the last one newest."""
    return (*BUILT_IN_TEMPLATES, *map(own, names))


async def move(
    world: MemoryLanes, program: Upstream, to: str, request_id: str = "r1", **more: Any
) -> tuple[Any, dict[str, Any]]:
    """Publish a command to move a run of ada's; gives what a lane serves."""
    value = {"user_id": "ada", "request_id": request_id, "to_version": to, **more}
    return await program.publish(value, key=b"ada", topic=world.topic(RUN_MIGRATIONS)), value


async def answers(world: MemoryLanes, count: int = 1) -> list[RunMigrationAnswered]:
    """Give what became of the first commands."""
    return await read_topic(world, RUN_MIGRATION_ANSWERS, RunMigrationAnswered, count=count)


def code_of(answer: RunMigrationAnswered) -> str | None:
    """Give why a run was not moved."""
    return None if answer.refused is None else answer.refused.code


async def paused(
    world: MemoryLanes, program: Upstream, owner: OneLane, text: str, **more: Any
) -> None:
    """Have a request paused before it comes, so that it waits with nothing done."""
    request_id = more.get("request_id", "r1")
    owner.serve(*await give(world, program, "pause", request_id=request_id))
    held = len(await read_whole(world, PARKED, RunParked))

    async def is_held() -> bool:
        holds = await read_whole(world, HOLDS, HoldPlaced)
        return request_id in {one.request_id for one in holds}

    await eventually(is_held)
    owner.serve(*await ask(program, text, **more))
    await read_topic(world, PARKED, RunParked, count=held + 1)


class PausedMidway:
    """A run of the template `clerk` that was paused between two calls, and who serves it then."""

    def __init__(self, world: MemoryLanes, program: Upstream, owner: OneLane) -> None:
        self.world = world
        self.program = program
        self.owner = owner

    async def move(self, to: str = "2", **more: Any) -> RunMigrationAnswered:
        """Have it moved; gives the newest answer."""
        before = len(await read_whole(self.world, RUN_MIGRATION_ANSWERS, RunMigrationAnswered))
        self.owner.serve(*await move(self.world, self.program, to, **more))
        return (await answers(self.world, before + 1))[-1]

    async def resume(self) -> None:
        """Let it go on."""
        self.owner.serve(*await give(self.world, self.program, "resume", request_id="r1"))


@asynccontextmanager
async def paused_midway(
    world: MemoryLanes,
    outside: Outside,
    text: str,
    *later: AgentTemplate,
    gap: Hold,
    first: AgentTemplate | None = None,
    **of_factory: Any,
) -> AsyncIterator[PausedMidway]:
    """Have a run paused at a gap, where its worker is then lost; the next one has `later` alone.

    With `of_factory` the later worker's tools may be others.
    """
    outside.begin_worker(gap)
    async with upstream(world) as program:
        async with (
            lane_services(
                world, outside, [first or clerk(version="1")], tools=outside.tools()
            ) as services,
            one_lane(world, services, None) as owner,
        ):
            owner.serve(*await ask(program, text, template="clerk"))
            await asyncio.wait_for(outside.is_held.wait(), 10)
            owner.serve(*await give(world, program, "pause", request_id="r1"))
            await read_topic(world, HOLDS, HoldPlaced, count=1)
            outside.goes_on.set()
            await eventually(lambda: owner.lane.waiting == 1)
        outside.begin_worker(None)
        later_factory = {"tools": outside.tools(), **of_factory}
        async with (
            lane_services(world, outside, later, **later_factory) as services,
            one_lane(world, services, None) as owner,
        ):
            yield PausedMidway(world, program, owner)
