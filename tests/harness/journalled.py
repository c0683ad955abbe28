"""Runs that lose their workers, and the world outside, which keeps what their calls did."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from langgraph.prebuilt import ToolRuntime

from millstream.agents.executor import wall_clock_ms
from millstream.agents.loop.callbacks import CallbackEvent
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.agents.tools import NOT_MADE, Caller, ToolRegistry, built_in_tools, tool
from millstream.middleware.policy import Policy
from millstream.schemas.events import AgentResult
from millstream.schemas.journal.steps import JournalStep
from millstream.schemas.topics import JOURNAL, RESULTS
from tests.harness.memory_lanes import (
    MemoryLanes,
    ask,
    lane_services,
    one_lane,
    read_topic,
    read_whole,
    upstream,
)
from tests.support import eventually

__all__ = ["CLERK", "Hold", "Outside", "clerk", "journal_of", "run_through"]


@dataclass(frozen=True, slots=True)
class Hold:
    """Where a worker stands still, and is lost: at the `number`th that is `at`, from 0.

    `begun`: a call of a tool began, and did nothing yet. `happened`: it did what it does, and has
    not returned. `ended`: it has returned, and nobody wrote it down. `asked`, `said`: the same of a
    call of a model, before and after. `written`: so many steps are on the journal.
    """

    at: str
    number: int = 0


@dataclass
class Outside:
    """What calls did, whoever made them.

    `begun` and `happened` are names and keys of calls of tools, `asked` when what became of a call
    was asked, in milliseconds since the epoch, `models` what models were called and answered,
    `attempts` which attempts began a call of a tool or model.
    """

    begun: list[tuple[str, str]] = field(default_factory=list)
    happened: list[tuple[str, str]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    attempts: set[int] = field(default_factory=set)
    hold: Hold | None = None
    timeout_s: float = 0.4
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _met: dict[str, int] = field(default_factory=dict)
    is_held: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    def begin_worker(self, hold: Hold | None) -> None:
        """Have the next worker stand still somewhere, or nowhere."""
        self.hold = hold
        self._met.clear()
        self.is_held.clear()
        self.goes_on.clear()

    async def meets(self, at: str) -> None:
        """Stand still if it is here; on the loop of the test."""
        number = self._met.get(at, 0)
        self._met[at] = number + 1
        if self.hold == Hold(at, number):
            self.is_held.set()
            await self.goes_on.wait()

    async def reaches(self, at: str) -> None:
        """As `meets`, on any loop."""
        there = asyncio.run_coroutine_threadsafe(self.meets(at), self._loop)
        await asyncio.wrap_future(there)

    async def __call__(self, event: CallbackEvent) -> None:
        """Hear of a run's calls."""
        if event.kind in {"model_start", "tool_start"}:
            self.attempts.add(event.attempt)
        if event.kind == "model_start":
            await self.meets("asked")
        elif event.kind == "model_end":
            self.models.append(event.name or "")
            await self.meets("said")
        elif event.kind == "tool_end":
            await self.meets("ended")

    async def does(self, name: str, runtime: ToolRuntime[Caller]) -> str:
        """Do what a tool does."""
        key = runtime.context.idempotency_key or ""
        self.begun.append((name, key))
        await self.reaches("begun")
        self.happened.append((name, key))
        await self.reaches("happened")
        return f"did {name}"

    def tools(self) -> ToolRegistry:
        """Give a tool of each effect: `look`, `put`, `pay`, `mail`."""

        @tool(effect="read_only", timeout_s=self.timeout_s)
        async def look(n: int, runtime: ToolRuntime[Caller]) -> str:
            """Look at something."""
            return await self.does(f"look {n}", runtime)

        @tool(effect="idempotent", timeout_s=self.timeout_s)
        async def put(n: int, runtime: ToolRuntime[Caller]) -> str:
            """Put something."""
            return await self.does(f"put {n}", runtime)

        async def became(caller: Caller, args: dict[str, Any]) -> Any:
            self.asked.append(wall_clock_ms())
            name = f"pay {args['n']}"
            return f"did {name}" if (name, caller.idempotency_key) in self.happened else NOT_MADE

        @tool(effect="reconcile", reconcile=became, timeout_s=self.timeout_s)
        async def pay(n: int, runtime: ToolRuntime[Caller]) -> str:
            """Pay something."""
            return await self.does(f"pay {n}", runtime)

        @tool(effect="ask_human", timeout_s=self.timeout_s)
        async def mail(n: int, runtime: ToolRuntime[Caller]) -> str:
            """Mail something."""
            return await self.does(f"mail {n}", runtime)

        return ToolRegistry((*built_in_tools(), look, put, pay, mail))


def clerk(**fields: Any) -> AgentTemplate:
    """Give the template `clerk`, whose agent has all four tools."""
    given = {"name": "clerk", "kind": "react", "tools": ("look", "put", "pay", "mail"), **fields}
    return AgentTemplate.model_validate(given)


CLERK = clerk()


async def run_through(
    world: MemoryLanes,
    outside: Outside,
    text: str,
    holds: Sequence[Hold | None] = (None,),
    templates: Iterable[AgentTemplate] = (CLERK,),
    *,
    template: str = "clerk",
    user_id: str = "ada",
    request_id: str = "r1",
    session_id: str = "s",
    later: Iterable[AgentTemplate] | None = None,
    between: Callable[[], Awaitable[None]] | None = None,
    policy: Policy | None = None,
    **of_factory: Any,
) -> AgentResult:
    """Run a request, by one worker after the other: each is lost where it stands still.

    `later` are the templates of all workers but the first, `between` is awaited before each.
    """
    of_factory = {"tools": outside.tools(), **of_factory}
    before = len(await read_whole(world, RESULTS, AgentResult))
    named = {"user_id": user_id, "request_id": request_id, "session_id": session_id}
    async with upstream(world) as program:
        asked = await ask(program, text, template=template, **named)
        for number, hold in enumerate(holds):
            outside.begin_worker(hold)
            if number and between is not None:
                await between()
            its = templates if later is None or not number else later
            every = (*BUILT_IN_TEMPLATES, *its)
            async with (
                lane_services(world, outside, every, **of_factory) as services,
                one_lane(world, services, policy) as owner,
            ):
                owner.serve(*asked)
                if hold is not None:
                    await _reached(world, outside, hold)
                    continue
                results = await read_topic(world, RESULTS, AgentResult, count=before + 1)
                return results[-1]
    message = "the last of the workers stands still nowhere"
    raise AssertionError(message)


async def journal_of(world: MemoryLanes) -> list[JournalStep]:
    """Give all steps of all runs that were written down."""
    return await read_whole(world, JOURNAL, JournalStep)


async def _reached(world: MemoryLanes, outside: Outside, hold: Hold) -> None:
    if hold.at != "written":
        await asyncio.wait_for(outside.is_held.wait(), 10)
        return

    async def is_written() -> bool:
        return len(await journal_of(world)) >= hold.number

    await eventually(is_written, timeout_s=10)
