"""Workers are killed between any two steps of an agent, and inside each of its calls.

The agent makes ten tool calls, one after the other, and its model and tools are a process of their
own, which logs each call and says when to strike. Each of its 21 calls is struck twice: held while
its worker is killed, and as it is being answered. All of these runs are struck by one SIGKILL.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from millstream.agents.tools import Effect
from millstream.schemas.events import AgentResult
from millstream.schemas.topics import RESULTS, catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from tests.chaos.ground import model_server
from tests.chaos.load import MODEL
from tests.chaos.steps.judge import asked_as_ended, faults, read_journal, read_seen, repeated
from tests.chaos.steps.script import TOOLS, answer_of, calls_of, steps_value, tool_of
from tests.chaos.steps.server import Hold
from tests.harness.audit import Asked, audit, left_behind, read_records
from tests.harness.lanes import Upstream, read_topic, upstream
from tests.harness.worker_process import WorkerProcess, worker_process
from tests.support import eventually

pytestmark = [pytest.mark.promise("P2"), pytest.mark.slow]

STEPS = 10
PARTITION = 0
"""All runs are one worker's at a time; the other one has a partition without any."""

WENT_ON = (0, 4, 25, 40)
"""Of the runs whose calls are answered, how many have gone on as their worker is killed."""

HELD_WITHIN_S = 60.0

EACH_TIME = ((2, "inside"), (7, "inside"), (12, "inside"), (18, "inside"))
"""Where runs are struck that lose each worker."""
RUNS_STRUCK_EACH_TIME = 3

POLICY = "prices: {openai:counted: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}\n"
PROGRAM = ("tests.chaos.steps.worker",)


@dataclass(frozen=True, slots=True)
class Point:
    """Where a run is struck."""

    request_id: str
    number: int
    how: Hold

    @property
    def effect(self) -> Effect | None:
        """The effect of the tool that is called; `None`: a model is."""
        step, is_tool = divmod(self.number, 2)
        return TOOLS[tool_of(self.request_id, step)] if is_tool else None


def points(kill: int) -> Iterator[Point]:
    """Give each call of a run, held and answered; in four runs a tool call is of each effect."""
    hows: tuple[Hold, ...] = ("inside", "answered")
    for how in hows:
        for half in range(2):
            offset = 2 * kill + half
            for number in range(2 * STEPS + 1):
                yield Point(f"{how}-{kill}-{number:02}.{STEPS}.{offset}", number, how)


class Server:
    """Says which calls are to be held, and waits for them."""

    def __init__(self, url: str, client: aiohttp.ClientSession) -> None:
        self._url = url
        self._client = client

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str) -> AsyncIterator[Server]:
        """Give one for as long as the block lasts."""
        async with aiohttp.ClientSession(raise_for_status=True) as client:
            yield cls(url, client)

    async def hold(self, request_id: str, holds: Sequence[tuple[int, str]]) -> None:
        """Hold calls of a run, each once."""
        told = [(request_id, *one) for one in holds]
        await self._client.post(f"{self._url}/hold", json=told)

    async def held(self, count: int) -> list[str]:
        """Wait until so many calls are held; gives the workers that made them."""
        async with self._client.get(f"{self._url}/held/{count}") as answer:
            workers: list[str] = await answer.json()
            return workers

    async def go_on(self, count: int) -> None:
        """Let held calls be answered; returns once so many of their runs have gone on."""
        await self._client.post(f"{self._url}/go-on/{count}")


class Workers:
    """Two workers, by name; each that is killed has a successor."""

    def __init__(self, settings: Settings, url: str, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._url = url
        self._stack = stack
        self._by_name: dict[str, WorkerProcess] = {}

    async def start(self, *names: str) -> None:
        """Start workers, and wait until each owns a partition."""
        for name in names:
            process = worker_process(
                self._settings,
                roles="lanes",
                name=name,
                program=PROGRAM,
                MILLSTREAM_PARTITIONS=str(self._settings.partitions),
                MILLSTREAM_DEFAULT_MODEL=MODEL,
                MILLSTREAM_POLICY_FILE=str(self._settings.data_dir / "policy.yaml"),
                OPENAI_BASE_URL=self._url,
                OPENAI_API_KEY=name,  # the server logs who called
            )
            self._by_name[name] = await self._stack.enter_async_context(process)
        for worker in [self._by_name[name] for name in names]:
            await worker.ready()
        # The other one lets go of a partition for whoever comes.
        await eventually(
            lambda: all("lane open" in self._by_name[name].log for name in names), timeout_s=60
        )

    async def kill(self, name: str) -> None:
        """SIGKILL."""
        await self._by_name[name].kill()

    def opened(self) -> int:
        """Count the lanes that were opened."""
        return sum(one.log.count("lane open") for one in self._by_name.values())


def users() -> Iterator[str]:
    """Give users whose records stand at `PARTITION`, without end."""
    number = 0
    while True:
        if home_partition(f"u{number}", 2) == PARTITION:
            yield f"u{number}"
        number += 1


async def publish(program: Upstream, one: Asked) -> None:
    await program.publish(json.loads(steps_value(one)), key=one.user_id.encode())


async def held_by(server: Server, count: int, settings: Settings, log: Path) -> str:
    """Wait until so many calls are held, and give the worker that made them all."""
    try:
        async with asyncio.timeout(HELD_WITHIN_S):
            (worker,) = set(await server.held(count))
    except TimeoutError:
        records, journal = await read_records(settings), await read_journal(settings)
        again = list(repeated(read_seen(log), journal, records))
        pytest.fail(f"some calls never came to be held; {len(again)} were repeated: {again[:9]}")
    return worker


@pytest.mark.promise("P1")
@pytest.mark.promise("P3")
@pytest.mark.timeout(300)
async def test_no_finished_call_is_made_again_wherever_a_worker_is_killed(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"partitions": 2})
    await ensure_topics(settings, catalogue())
    (settings.data_dir / "policy.yaml").write_text(POLICY, encoding="utf-8")
    log = settings.data_dir / "calls.log"
    names = users()
    asked: list[Asked] = []
    struck: list[Point] = []
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(
            model_server(log, pace_s=0.0, program="tests.chaos.steps.server")
        )
        server = await stack.enter_async_context(Server.at(url))
        program = await stack.enter_async_context(upstream(settings))
        workers = Workers(settings, url, stack)
        await workers.start("a-0", "b-0")

        async def ask(request_id: str, holds: Sequence[tuple[int, str]]) -> None:
            await server.hold(request_id, holds)
            asked.append(Asked(request_id, next(names), "s", answer=answer_of(request_id)))
            await publish(program, asked[-1])

        for number in range(RUNS_STRUCK_EACH_TIME):
            # None of these has its call held that only a person could judge.
            await ask(f"each-{number}.{STEPS}.{number + 1}", EACH_TIME)
        for kill, went_on in enumerate(WENT_ON):
            of_kill = list(points(kill))
            struck += of_kill
            for point in of_kill:
                await ask(point.request_id, [(point.number, point.how)])
            victim = await held_by(server, len(of_kill) + RUNS_STRUCK_EACH_TIME, settings, log)
            await server.go_on(went_on)
            await workers.kill(victim)
            if kill % 2 == 0:
                # The other worker takes over. Behind other kills it may be the successor.
                before = workers.opened()
                await eventually(lambda: workers.opened() > before, timeout_s=60)  # noqa: B023
            await workers.start(f"{victim[0]}-{kill + 1}")
        await read_topic(settings, RESULTS, AgentResult, count=len(asked), timeout_s=120)
        records, journal, seen = (
            await read_records(settings),
            await read_journal(settings),
            read_seen(log),
        )
        left = await left_behind(settings)
    assert list(repeated(seen, journal, records)) == []
    assert list(faults(seen, journal, records)) == []
    assert audit(asked_as_ended(asked, records), records).faults == {}
    assert left == []
    times = seen.times()
    for point in struck:
        told = f"{point}: {times[point.request_id, point.number]} times"
        again = [
            number
            for number in range(calls_of(point.request_id))
            if times[point.request_id, number] > 1
        ]
        if point.how == "answered":
            # Where its run went on, a later call was struck instead: one at most.
            assert len(again) <= 1, told
        elif point.effect == "ask_human":
            assert again == [], told
        elif point.effect == "reconcile":
            # One that did what it is for is not made again.
            assert again in ([], [point.number]), told
        else:
            assert again == [point.number], told
    assert sum(cost.estimated for cost in records.costs) > 0
