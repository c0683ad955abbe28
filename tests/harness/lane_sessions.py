"""Sessions of a deployment in memory: a user who gives commands and asks, and waits."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from millstream.agents.templates.session_rules import SessionRules
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from millstream.schemas.events import AgentResult
from millstream.schemas.sessions.commands import SessionTtl
from millstream.schemas.sessions.states import SessionAnswered
from millstream.schemas.topics import RESULTS, SESSION_ANSWERS, SESSION_COMMANDS
from tests.harness.memory_lanes import (
    MemoryLanes,
    Upstream,
    ask,
    read_topic,
    running_lanes,
    upstream,
)

_numbers = itertools.count(1)


class Sessions:
    """A user's view of a deployment: gives commands and asks, and waits for what comes of it."""

    def __init__(self, world: MemoryLanes, program: Upstream) -> None:
        self.world = world
        self.program = program
        self._answers = 0

    async def give(self, operation: str, session: str | None = "s", **more: Any) -> str:
        """Publish a command of ada's; gives its id."""
        command_id = more.pop("command_id", f"c{next(_numbers)}")
        value = {"user_id": "ada", "operation": operation, "command_id": command_id, **more}
        if session is not None:
            value["session_id"] = session
        topic = self.world.topic(SESSION_COMMANDS)
        await self.program.publish(value, key=b"ada", topic=topic)
        return command_id

    async def answered(self, command_id: str, *, times: int = 1) -> SessionAnswered:
        """Wait for the answer to a command."""
        count = 1
        while True:
            answers = await read_topic(self.world, SESSION_ANSWERS, SessionAnswered, count=count)
            found = [one for one in answers if one.command_id == command_id]
            if len(found) >= times:
                return found[times - 1]
            count = len(answers) + 1

    async def tell(self, operation: str, session: str | None = "s", **more: Any) -> SessionAnswered:
        """Give a command and wait for its answer."""
        return await self.answered(await self.give(operation, session, **more))

    async def ask(self, text: str, **more: Any) -> str:
        """Ask in session `s`; gives the request's id."""
        request_id = f"r{next(_numbers)}"
        await ask(self.program, text, **{"request_id": request_id, "session_id": "s", **more})
        return request_id

    async def result(self, request_id: str) -> AgentResult:
        """Wait for a request's result."""
        count = 1
        while True:
            results = await read_topic(self.world, RESULTS, AgentResult, count=count)
            found = [one for one in results if one.request_id == request_id]
            if found:
                return found[0]
            count = len(results) + 1

    async def turn(self, text: str, **more: Any) -> AgentResult:
        """Ask, and wait for the result."""
        return await self.result(await self.ask(text, **more))


STRICT = AgentTemplate(name="strict", session=SessionRules(create_first=True))
SHORT = AgentTemplate(name="short", session=SessionRules(ttl=SessionTtl(total_s=60)))


@asynccontextmanager
async def sessions(world: MemoryLanes) -> AsyncIterator[Sessions]:
    templates = (*BUILT_IN_TEMPLATES, STRICT, SHORT)
    world = world.limited(expires_after_opening_s=0.3)
    async with running_lanes(world, templates=templates), upstream(world) as program:
        yield Sessions(world, program)


def code_of(answer: SessionAnswered | AgentResult) -> str | None:
    reason = answer.refused if isinstance(answer, SessionAnswered) else answer.reason
    return None if reason is None else reason.code
