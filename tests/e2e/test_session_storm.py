"""A thousand callers in two processes ask for anything of a hundred sessions: workers are killed.

As a program, this is the second process: its callers begin at once, and what they asked is printed.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from millstream.schemas.events import AgentRequest, AgentResult
from millstream.schemas.sessions.commands import SessionCommand, SessionOperation
from millstream.schemas.sessions.states import SessionAnswered, SessionChanged, SessionState
from millstream.schemas.sessions.transitions import TRANSITIONS, Before
from millstream.schemas.topics import (
    RESULTS,
    SESSION_ANSWERS,
    SESSION_EVENTS,
    SESSION_STATES,
    catalogue,
)
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.api import Delivery
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import Settings, child_environment, load_settings
from tests.harness.lanes import read_whole
from tests.harness.session_lines import breaks_on
from tests.harness.worker_process import ROOT, worker_process

pytestmark = [pytest.mark.promise("P1"), pytest.mark.promise("P6"), pytest.mark.slow]

CALLERS = 1000
SESSIONS = 100
USERS = 10
STEPS_MAX = 4
KILLS = 5
FEW = {"MILLSTREAM_SESSIONS_IN_MEMORY": "2"}
"""Most sessions are looked up on the log."""
OPERATIONS: tuple[SessionOperation, ...] = (
    *("touch", "touch", "update", "close", "reopen", "reopen", "expire"),
    *("delete", "name_checkpoint", "restore", "create"),
)
BY_CIRCUMSTANCE = {"session_busy", "checkpoint_unknown", "name_taken"}


class Storm:
    """Commands and requests that were published, and what has come of them."""

    def __init__(self, bus: KafkaBus, seed: int) -> None:
        self._bus = bus
        self._chance = random.Random(seed)  # noqa: S311  the same steps for the same seed
        self._answered: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.commands: dict[str, SessionCommand] = {}
        self.requests: set[str] = set()
        self.done = 0

    @classmethod
    @asynccontextmanager
    async def over(cls, settings: Settings, seed: int) -> AsyncIterator[Storm]:
        """Give one that hears what is answered."""
        async with KafkaBus(settings) as bus, bus.tail((SESSION_ANSWERS, RESULTS)) as coming:
            storm = cls(bus, seed)
            hearing = asyncio.create_task(storm.hear(coming))
            yield storm
            hearing.cancel()

    async def hear(self, coming: AsyncIterator[Delivery]) -> None:
        """Take note of answers and results as they come."""
        async for one in coming:
            match one.event:
                case SessionAnswered(command_id=command_id):
                    self._answered[command_id].set()
                case AgentResult(request_id=request_id):
                    self._answered[request_id].set()
                case _:
                    pass

    async def create_all(self) -> None:
        """Create each session, so that the table knows where each begins."""
        async with asyncio.TaskGroup() as group:
            for number in range(SESSIONS):
                group.create_task(self._command(f"new-{number}", number, "create"))

    async def call(self, number: int) -> None:
        """Be a caller: some steps, each once the one before is answered."""
        for step in range(self._chance.randint(1, STEPS_MAX)):
            name, session = f"{number}-{step}", self._chance.randrange(SESSIONS)
            if self._chance.random() < 0.3:
                await self._ask(name, session)
            else:
                await self._command(name, session, self._chance.choice(OPERATIONS))
        self.done += 1

    async def _command(self, name: str, session: int, operation: SessionOperation) -> None:
        more = {"turn": self._chance.randint(1, 3)} if operation == "restore" else {}
        if operation == "name_checkpoint":
            more = {"turn": self._chance.randint(1, 3), "name": f"n{self._chance.randrange(40)}"}
        command = SessionCommand.model_validate(
            {
                "user_id": f"u{session % USERS}",
                "session_id": f"s{session}",
                "command_id": name,
                "operation": operation,
                **more,
            }
        )
        self.commands[name] = command
        # Some are sent again, as by whoever did not hear the answer.
        for _ in range(1 + (self._chance.random() < 0.2)):
            await self._bus.publish(command)
        await self._answered[name].wait()

    async def _ask(self, name: str, session: int) -> None:
        self.requests.add(name)
        text = self._chance.choice(("say: x", "slow: 0.2; say: x"))
        await self._bus.publish(
            AgentRequest(
                user_id=f"u{session % USERS}",
                session_id=f"s{session}",
                request_id=name,
                input=text,
            )
        )
        await self._answered[name].wait()


@pytest.mark.timeout(400)
async def test_every_answer_agrees_with_one_order_of_the_log(settings: Settings) -> None:
    await ensure_topics(settings, catalogue())
    async with AsyncExitStack() as stack:
        storm = await stack.enter_async_context(Storm.over(settings, seed=20))
        worker = await stack.enter_async_context(worker_process(settings, name="w0", **FEW))
        await worker.ready()
        await storm.create_all()
        others = await other_callers(settings)
        calling = [asyncio.create_task(storm.call(number)) for number in range(CALLERS // 2)]
        for kill in range(1, KILLS + 1):
            wanted = CALLERS // 2 * kill // (KILLS + 2)
            while storm.done < wanted and not all(one.done() for one in calling):
                await asyncio.wait(
                    [one for one in calling if not one.done()],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            await worker.kill()
            worker = await stack.enter_async_context(
                worker_process(settings, name=f"w{kill}", **FEW)
            )
            await worker.ready()
        await asyncio.gather(*calling)
        told, _ = await others.communicate()
    assert others.returncode == 0
    asked = json.loads(told)
    commands = storm.commands.keys() | set(asked["commands"])
    requests = storm.requests | set(asked["requests"])
    answers = await read_whole(settings, SESSION_ANSWERS, SessionAnswered)
    assert {one.command_id for one in answers} == commands
    assert list(contradictions(answers)) == []
    results = await read_whole(settings, RESULTS, AgentResult)
    assert sorted(one.request_id for one in results) == sorted(requests)
    states = await read_whole(settings, SESSION_STATES, SessionState)
    revisions: dict[str, list[int]] = defaultdict(list)
    for state in states:
        revisions[state.session_id].append(state.revision)
    assert all(told == list(range(1, len(told) + 1)) for told in revisions.values())
    assert await breaks_on(settings) == []
    events = await read_whole(settings, SESSION_EVENTS, SessionChanged)
    assert len({(one.session_id, one.revision) for one in events}) == len(events)


async def other_callers(settings: Settings) -> Process:
    """Start the second half of the callers, in a process of their own."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.e2e.test_session_storm",
        stdout=PIPE,
        cwd=ROOT,
        env=child_environment(settings),
    )


async def _call() -> None:
    async with Storm.over(load_settings(), seed=21) as storm:
        await asyncio.gather(*(storm.call(number) for number in range(CALLERS // 2, CALLERS)))
    asked = {"commands": list(storm.commands), "requests": list(storm.requests)}
    sys.stdout.write(json.dumps(asked))


def contradictions(answers: list[SessionAnswered]) -> Iterator[str]:
    """Give each answer that the table of transitions does not give in the order of the log."""
    states: dict[str, Before] = defaultdict(lambda: "unknown")
    first: dict[str, str | None] = {}
    for one in answers:
        session = one.session_id or ""
        code = None if one.refused is None else one.refused.code
        if one.command_id in first:
            if first[one.command_id] != code:
                yield f"{one.command_id} was answered {first[one.command_id]}, then {code}"
            continue
        first[one.command_id] = code
        before = states[session]
        expected = TRANSITIONS[one.operation][before]
        if not isinstance(expected, str):
            if code != expected.code:
                yield f"{one.command_id}: {one.operation} of a {before} session gave {code}"
        elif code is None:
            states[session] = expected
            if one.session is None or one.session.state != expected:
                yield f"{one.command_id}: {one.operation} of a {before} session left {one.session}"
        elif code not in BY_CIRCUMSTANCE:
            yield f"{one.command_id}: {one.operation} of a {before} session was refused: {code}"


if __name__ == "__main__":
    asyncio.run(_call())
