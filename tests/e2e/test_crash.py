"""One result each, whatever happens to the workers: real processes, ended in the middle of runs."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Self

import pytest

from millstream.schemas.events import (
    AgentResult,
    AgentToken,
    AttemptStarted,
    CostRecorded,
    Decision,
)
from millstream.schemas.lane_events import LaneOpened
from millstream.schemas.topics import ATTEMPTS, COSTS, DECISIONS, LANES, RESULTS, TOKENS, catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.settings import Settings
from tests.chaos.calls import read_calls
from tests.chaos.ground import model_server
from tests.chaos.load import MODEL, Progress, watch_results
from tests.e2e.programs import as_client, run
from tests.harness.handovers import handovers, longest_wait_s, superseded
from tests.harness.lanes import Upstream, read_topic, read_whole, upstream
from tests.harness.worker_process import WorkerProcess, worker_process
from tests.support import eventually

pytestmark = [pytest.mark.promise("P1"), pytest.mark.slow]

REQUESTS_PUBLISHED = 60


async def publish_many(program: Upstream) -> set[str]:
    """Publish runs of about a third of a second each, of 20 users with a session each."""
    ids = set()
    for number in range(REQUESTS_PUBLISHED):
        user = f"user-{number % 20}"
        request_id = f"{user}.{number:03}"
        ids.add(request_id)
        await program.publish(
            {
                "user_id": user,
                "session_id": "s",
                "request_id": request_id,
                "input": "pace: 0.03; tokens: 10",
            },
            key=user.encode(),
        )
    return ids


async def assert_each_has_one_result(settings: Settings, ids: set[str]) -> list[AgentResult]:
    await read_topic(settings, RESULTS, AgentResult, count=len(ids), timeout_s=90)
    results = await read_whole(settings, RESULTS, AgentResult)
    assert sorted(result.request_id for result in results) == sorted(ids)
    assert {result.status for result in results} == {"completed"}
    by_session = defaultdict(list)
    for result in results:
        by_session[result.user_id].append(result.request_id)
    assert all(order == sorted(order) for order in by_session.values())
    return results


async def assert_tokens_make_the_results(settings: Settings, results: list[AgentResult]) -> None:
    wanted = sum(result.last_seq + 1 for result in results)
    tokens = await read_topic(settings, TOKENS, AgentToken, count=wanted)
    texts: dict[tuple[str, int], list[AgentToken]] = defaultdict(list)
    for token in tokens:
        texts[token.request_id, token.attempt].append(token)
    for result in results:
        of_result = texts[result.request_id, result.attempt]
        assert [token.seq for token in of_result] == list(range(result.last_seq + 1))
        assert "".join(token.text for token in of_result) == result.output
        superseded = [attempt for name, attempt in texts if name == result.request_id]
        if len(superseded) > 1:
            assert of_result[0].text == "", "an attempt that follows another announces itself"
        assert max(attempt for name, attempt in texts if name == result.request_id) == (
            result.attempt
        )


async def assert_each_attempt_is_on_the_bill(
    settings: Settings, results: list[AgentResult]
) -> list[CostRecorded]:
    attempts = await read_whole(settings, ATTEMPTS, AttemptStarted)
    costs = await read_whole(settings, COSTS, CostRecorded)
    assert sorted((one.request_id, one.attempt) for one in attempts) == sorted(
        (one.request_id, one.attempt) for one in costs
    )
    spent: dict[str, int] = defaultdict(int)
    for cost in costs:
        spent[cost.request_id] += cost.cost_micros
    assert {result.request_id: result.cost_micros for result in results} == spent
    return costs


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
        ids = await publish_many(program)
        await read_topic(settings, RESULTS, AgentResult, count=5)
        await first.kill()
        results = await assert_each_has_one_result(settings, ids)
        await assert_tokens_make_the_results(settings, results)
        costs = await assert_each_attempt_is_on_the_bill(settings, results)
    # Those that the killed worker had begun count, though it told nobody what they used.
    assert 0 < sum(cost.estimated for cost in costs) < len(costs)
    assert "lane open" in second.log


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

        async def ask(name: str, template: str, text: str) -> set[str]:
            ids = {f"{user}.{name}" for user in users}
            for request_id in sorted(ids):
                user = request_id.partition(".")[0]
                request = {"user_id": user, "session_id": "s", "request_id": request_id}
                more = {"template": template, "input": request_id + text}
                await program.publish(request | more, key=user.encode())
            return ids

        def called_by(name: str) -> list[str]:
            return [call.request_id for call in read_calls(log) if call.worker == name]

        # One call after the other, and none needs anything of Kafka, which could refuse it.
        ids = await ask("1", "react_agent", " tools: 6") | await ask("2", "chat_agent", "")
        await eventually(lambda: called_by("first"))
        first.signal(signal.SIGSTOP)
        before = called_by("first")
        await eventually(lambda: set(before) <= set(called_by("second")))
        first.signal(signal.SIGCONT)
        # Its runs are another's by now. It may serve again, once the group says so.
        await eventually(lambda: "lane given up" in first.log)
        await assert_each_has_one_result(settings, ids)
        assert not set(before) & set(called_by("first")[len(before) :])
        ids |= await ask("3", "chat_agent", "")
        results = await assert_each_has_one_result(settings, ids)
        await assert_tokens_make_the_results(settings, results)


class Asking:
    """Publishes runs of two thirds of a second, ten at a time, until the block ends."""

    def __init__(self, settings: Settings, program: Upstream) -> None:
        self._settings = settings
        self._program = program
        self._progress = Progress(0)
        self._enough = False
        self._tasks: list[asyncio.Task[None]] = []
        self.ids: set[str] = set()

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
            await self._progress.reached(len(self.ids) - 9)
            user = f"user-{len(self.ids) % 20}"
            request = {"session_id": "s", "request_id": f"{user}.{len(self.ids):04}"}
            self.ids.add(request["request_id"])
            await self._program.publish(
                {"user_id": user, "input": "pace: 0.03; tokens: 20", **request}, key=user.encode()
            )


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
                clients.append(group.create_task(run(as_client(settings), *submit)))
                await asking.more(10)
                leaving.signal(signal.SIGTERM)
                assert await leaving.ended() == 0, leaving.log[-4000:]
            await asking.more(10)
        for client in clients:
            assert client.result().code == 0, client.result().err
        wanted = len(asking.ids) + len(clients)
        await read_topic(settings, RESULTS, AgentResult, count=wanted)
        results = await read_whole(settings, RESULTS, AgentResult)
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
    asked = [one for one in results if one.request_id in asking.ids]
    assert {one.request_id for one in asked} == asking.ids
    assert len(results) == wanted
    assert {one.status for one in results} == {"completed"}
    tokens = await read_whole(settings, TOKENS, AgentToken)
    assert superseded((one.request_id, one.attempt) for one in tokens) == 0
    changed = handovers(results, await read_whole(settings, LANES, LaneOpened), settings.partitions)
    assert changed
    gaps = " ".join(f"{one.opened_s:.1f}" for one in changed)
    print(f"last result of the old owner to the new lane, s: {gaps}")  # noqa: T201  a measurement
    print(f"longest wait for a result: {longest_wait_s(results):.1f} s")  # noqa: T201  the same
