"""One result each, whatever happens to the workers: real processes, ended in the middle of runs."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import Self

import pytest

from millstream.schemas.events import (
    AgentResult,
    AttemptStarted,
    Decision,
)
from millstream.schemas.lane_events import LaneOpened
from millstream.schemas.topics import ATTEMPTS, DECISIONS, LANES, RESULTS, catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from millstream.streams.wire.partitioning import home_partition
from tests.chaos.calls import read_calls
from tests.chaos.ground import model_server
from tests.chaos.load import MODEL, Progress, watch_results
from tests.e2e.programs import as_client, run
from tests.harness.audit import Asked, Records, audit, read_records
from tests.harness.handovers import handovers
from tests.harness.lanes import Upstream, read_topic, read_whole, upstream
from tests.harness.worker_process import WorkerProcess, worker_process
from tests.support import eventually

pytestmark = [pytest.mark.promise("P1"), pytest.mark.slow]

USERS = 20
REQUESTS_PUBLISHED = 3 * USERS


async def publish_many(program: Upstream) -> list[Asked]:
    """Publish three runs of each of 20 users: one of six seconds, then two of a third of one."""
    asked = []
    for number in range(REQUESTS_PUBLISHED):
        one = Asked(f"r{number:03}", f"user-{number % USERS}", "s")
        asked.append(one)
        await publish(
            program, one, "pace: 0.3; tokens: 20" if number < USERS else "pace: 0.03; tokens: 10"
        )
    return asked


def generation_of(lane: LaneOpened) -> int:
    return lane.generation


async def publish(program: Upstream, one: Asked, text: str, **more: str) -> None:
    ids = {"user_id": one.user_id, "session_id": one.session_id, "request_id": one.request_id}
    await program.publish({**ids, "input": text, **more}, key=one.user_id.encode())


async def audited(settings: Settings, asked: list[Asked], *, priced: bool) -> Records:
    """Check all that a deployment has written once each request has a result."""
    await read_topic(settings, RESULTS, AgentResult, count=len(asked), timeout_s=90)
    records = await read_records(settings)
    assert audit(asked, records, priced=priced).faults == {}
    return records


@pytest.mark.promise("P3")
@pytest.mark.timeout(180)
async def test_a_worker_killed_in_mid_run_leaves_one_result_each_and_the_whole_bill(
    settings: Settings,
) -> None:
    await ensure_topics(settings, catalogue())
    policy = settings.data_dir / "policy.yaml"
    policy.write_text(
        "prices: {scripted: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}\n", encoding="utf-8"
    )
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                worker_process(
                    settings, roles="lanes", name=name, MILLSTREAM_POLICY_FILE=str(policy)
                )
            )
            for name in ("first", "second")
        ]
        await asyncio.gather(first.ready(), second.ready())
        program = await stack.enter_async_context(upstream(settings))
        asked = await publish_many(program)
        # A reservation that is committed lets its run begin: none of them is at its end.
        await read_topic(settings, ATTEMPTS, AttemptStarted, count=USERS)
        opened = await read_whole(settings, LANES, LaneOpened)
        home = home_partition(asked[0].user_id, settings.partitions)
        owner = max((one for one in opened if one.partition == home), key=generation_of).worker
        victim, other = (first, second) if first.info["worker"] == owner else (second, first)
        await victim.kill()
        costs = (await audited(settings, asked, priced=True)).costs
    # Those that the killed worker had begun count, though it told nobody what they used.
    assert 0 < sum(cost.estimated for cost in costs) < len(costs)
    assert "lane open" in other.log


@pytest.mark.rule(10)
@pytest.mark.timeout(180)
async def test_a_worker_that_slept_past_its_session_calls_no_model_and_publishes_nothing_wrong(
    settings: Settings,
) -> None:
    await ensure_topics(settings, catalogue())
    log = settings.data_dir / "model.log"
    users = [f"user-{number:02}" for number in range(16)]
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(model_server(log))
        first, second = [
            await stack.enter_async_context(
                worker_process(
                    settings,
                    roles="lanes",
                    name=name,
                    MILLSTREAM_DEFAULT_MODEL=MODEL,
                    OPENAI_BASE_URL=url,
                    OPENAI_API_KEY=name,  # the model logs who called
                )
            )
            for name in ("first", "second")
        ]
        await asyncio.gather(first.ready(), second.ready())
        program = await stack.enter_async_context(upstream(settings))

        async def ask(name: str, template: str, text: str) -> list[Asked]:
            asked = [Asked(f"{user}.{name}", user, "s") for user in users]
            for one in asked:
                await publish(program, one, one.request_id + text, template=template)
            return asked

        def called_by(name: str) -> list[str]:
            return [call.request_id for call in read_calls(log) if call.worker == name]

        # One call after the other, and none needs anything of Kafka, which could refuse it.
        asked = await ask("1", "react_agent", " tools: 6") + await ask("2", "chat_agent", "")
        await eventually(lambda: called_by("first"))
        first.signal(signal.SIGSTOP)
        before = called_by("first")
        await eventually(lambda: set(before) <= set(called_by("second")))
        first.signal(signal.SIGCONT)
        # Its runs are another's by now. It may serve again, once the group says so.
        await eventually(lambda: "lane given up" in first.log)
        await audited(settings, asked, priced=False)
        assert not set(before) & set(called_by("first")[len(before) :])
        asked += await ask("3", "chat_agent", "")
        await audited(settings, asked, priced=False)


class Asking:
    """Publishes runs of two thirds of a second, ten at a time, until the block ends."""

    def __init__(self, settings: Settings, program: Upstream) -> None:
        self._settings = settings
        self._program = program
        self._progress = Progress(0)
        self._enough = False
        self._tasks: list[asyncio.Task[None]] = []
        self.asked: list[Asked] = []

    async def __aenter__(self) -> Self:
        """Begin."""
        self._tasks = [
            asyncio.create_task(watch_results(self._settings, self._progress)),
            asyncio.create_task(self._ask()),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Publish no more."""
        watcher, asking = self._tasks
        self._enough = True
        await asking
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)

    async def more(self, results: int) -> None:
        """Wait for so many more results."""
        await self._progress.reached(len(self._progress) + results)

    async def _ask(self) -> None:
        while not self._enough:
            number = len(self.asked)
            await self._progress.reached(number - 9)
            one = Asked(f"r{number:04}", f"user-{number % 20}", "s")
            self.asked.append(one)
            await publish(self._program, one, "pace: 0.03; tokens: 20")


@pytest.mark.timeout(180)
async def test_a_rolling_restart_loses_nothing_and_costs_nobody_an_error(
    settings: Settings,
) -> None:
    await ensure_topics(settings, catalogue())
    submit = ("submit", "pace: 0.05; tokens: 30", "--user", "ada", "--timeout", "60")
    async with AsyncExitStack() as stack:

        async def start(name: str) -> WorkerProcess:
            process = worker_process(settings, roles="lanes", name=name)
            return await stack.enter_async_context(process)

        first, second = await start("first"), await start("second")
        await asyncio.gather(first.ready(), second.ready())
        program = await stack.enter_async_context(upstream(settings))
        async with Asking(settings, program) as asking, asyncio.TaskGroup() as group:
            third = await start("third")
            await third.ready()
            clients = []
            for leaving in (first, second):
                await asking.more(10)
                named = ("--session", f"client-{len(clients)}")
                clients.append(group.create_task(run(as_client(settings), *submit, *named)))
                await asking.more(10)
                leaving.signal(signal.SIGTERM)
                assert await leaving.ended() == 0, leaving.log[-4000:]
            await asking.more(10)
        for client in clients:
            assert client.result().code == 0, client.result().err
        await read_topic(settings, RESULTS, AgentResult, count=len(asking.asked) + len(clients))
        records = await read_records(settings)
        # A second signal ends a worker that waits for its runs at once.
        await program.publish({"user_id": "ada", "request_id": "long", "input": "hang"}, key=b"ada")

        async def it_runs() -> bool:
            decisions = await read_whole(settings, DECISIONS, Decision)
            return any(one.request_id == "long" for one in decisions)

        await eventually(it_runs)
        third.signal(signal.SIGTERM)
        await eventually(lambda: "worker stops" in third.log)
        third.signal(signal.SIGTERM)
        assert await third.ended(5) == -signal.SIGTERM
    of_clients = [
        Asked(one.request_id, one.user_id, one.session_id)
        for one in records.results
        if one.user_id == "ada"
    ]
    assert len(of_clients) == len(clients)
    verdict = audit([*asking.asked, *of_clients], records, priced=False)
    assert verdict.faults == {}
    assert verdict.superseded == 0
    opened = await read_whole(settings, LANES, LaneOpened)
    assert handovers(records.results, opened, settings.partitions)
