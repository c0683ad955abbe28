"""A worker in both roles, as a real process: what its metrics and its session view show."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import redis.asyncio
from prometheus_client.parser import text_string_to_metric_families

from millstream.schemas.events import (
    AgentResult,
    AgentToken,
    CheckpointSaved,
    CostRecorded,
    Decision,
    SessionUpdated,
)
from millstream.schemas.topics import (
    CHECKPOINTS,
    COSTS,
    DECISIONS,
    RESULTS,
    SESSIONS,
    TOKENS,
    catalogue,
)
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from tests.harness.lanes import Upstream, read_topic, read_whole, upstream
from tests.harness.worker_process import WorkerProcess, worker_process
from tests.support import eventually

pytestmark = pytest.mark.timeout(180)

PRICED = """
prices:
  scripted: {input_usd_per_mtok: 1000, output_usd_per_mtok: 4000}
"""
PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "metrics.md").read_text("utf-8")
NOBODY_LISTENS = "redis://127.0.0.1:1/0"

Totals = dict[str, float]
"""Sums over the partitions by metric and label values, as `results||completed`."""


@dataclass(frozen=True, slots=True)
class Scraped:
    """What a worker's metrics said: totals of the tables, and figures without labels."""

    totals: Totals
    behind: float


async def answer(worker: WorkerProcess, path: str) -> tuple[int, str]:
    """Get a page of the worker's, as its status and its text."""
    assert worker.info["metrics_url"].endswith("/metrics")
    base = worker.info["metrics_url"].removesuffix("/metrics")
    async with aiohttp.ClientSession() as http, http.get(f"{base}{path}") as page:
        return page.status, await page.text()


async def scrape(worker: WorkerProcess) -> Scraped:
    """Read the worker's metrics."""
    status, text = await answer(worker, "/metrics")
    assert status == 200
    totals: dict[str, float] = defaultdict(float)
    behind = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "millstream_session_view_partitions_behind":
                behind = sample.value
            if sample.name.endswith("_total") and "partition" in sample.labels:
                figure = sample.name.removeprefix("millstream_").removesuffix("_total")
                labels = [
                    value for name, value in sorted(sample.labels.items()) if name != "partition"
                ]
                totals["|".join([figure, *labels])] += sample.value
    return Scraped({name: value for name, value in totals.items() if value}, behind)


async def recount(settings: Settings) -> Totals:
    """Count the topics, independently of the views."""
    counts: Counter[str] = Counter()
    for decision in await read_whole(settings, DECISIONS, Decision):
        reason = decision.reason.code if decision.reason else ""
        counts[f"requests|{'admitted' if decision.admitted else 'rejected'}|{reason}"] += 1
    for result in await read_whole(settings, RESULTS, AgentResult):
        counts[f"results|{result.reason.code if result.reason else ''}|{result.status}"] += 1
    for token in await read_whole(settings, TOKENS, AgentToken):
        counts["token_records"] += 1
        counts["streamed_tokens"] += token.tokens
    for cost in await read_whole(settings, COSTS, CostRecorded):
        counts[f"cost_micros|{cost.model}"] += cost.cost_micros
        counts["tokens|input"] += cost.usage.input_tokens
        counts["tokens|output"] += cost.usage.output_tokens
    counts["checkpoints"] = len(await read_whole(settings, CHECKPOINTS, CheckpointSaved))
    counts["session_heads"] = len(await read_whole(settings, SESSIONS, SessionUpdated))
    return {name: float(count) for name, count in counts.items() if count}


async def metrics_equal_the_topics(settings: Settings, worker: WorkerProcess) -> Totals:
    """Wait until the worker's totals are a recount of the topics, and give them."""
    wanted = await recount(settings)

    async def equal() -> bool:
        assert (await scrape(worker)).totals == wanted
        return True

    await eventually(equal)
    return wanted


async def run(program: Upstream, settings: Settings, count: int, **fields: str) -> AgentResult:
    """Publish a request and give its result; `count` tells how many there are by then."""
    await program.publish({"user_id": "ada", "session_id": "s", "input": "tokens: 5", **fields})
    results = await read_topic(settings, RESULTS, AgentResult, count=count)
    [result] = [one for one in results if one.request_id == fields["request_id"]]
    return result


async def lose_everything_in_redis(settings: Settings) -> int:
    """Delete what this deployment holds in Redis, which other tests share."""
    async with redis.asyncio.Redis.from_url(settings.redis_url) as client:
        keys = [key async for key in client.scan_iter(f"{settings.namespace}:*", count=1000)]
        return int(await client.delete(*keys)) if keys else 0


@pytest.fixture
async def deployment(settings: Settings) -> Settings:
    await ensure_topics(settings, catalogue())
    return settings


@pytest.fixture
async def program(deployment: Settings) -> AsyncIterator[Upstream]:
    async with upstream(deployment) as program:
        yield program


@pytest.fixture
async def store(deployment: Settings) -> AsyncIterator[RedisSessionStore]:
    store = RedisSessionStore(deployment)
    yield store
    await store.close()


async def test_a_worker_shows_in_metrics_and_sessions_what_the_topics_hold(
    deployment: Settings, program: Upstream, store: RedisSessionStore
) -> None:
    policy = deployment.data_dir / "policy.yaml"
    policy.write_text(PRICED, encoding="utf-8")
    environment = {
        "MILLSTREAM_POLICY_FILE": str(policy),
        "MILLSTREAM_TEMPLATE_UNKNOWN_WAIT_S": "0",
    }
    async with worker_process(deployment, **environment) as worker:
        await worker.ready()
        assert (await answer(worker, "/health/live"))[0] == 200
        assert (await answer(worker, "/health/ready"))[0] == 200
        _, text = await answer(worker, "/metrics")
        told = set(re.findall("^# HELP (\\w+)", text, re.MULTILINE))
        ours = {one for one in told if one.startswith("millstream_")}
        shown = set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE))
        assert shown == {one for one in ours if not one.endswith("_created")}
        assert {"process_open_fds", "python_gc_collections_total"} <= told
        await asyncio.gather(
            *(
                program.publish(
                    {
                        "user_id": f"user-{number % 7}",
                        "session_id": "s",
                        "input": "tokens: 5",
                        **({"template": "no_such_template"} if number % 10 == 0 else {}),
                    }
                )
                for number in range(40)
            )
        )
        await read_topic(deployment, RESULTS, AgentResult, count=40)
        totals = await metrics_equal_the_topics(deployment, worker)
        results = {name: count for name, count in totals.items() if name.startswith("results|")}
        assert results == {"results||completed": 36, "results|unknown_template|rejected": 4}
        assert totals["tokens|output"] > 0
        assert totals["cost_micros|scripted"] > 0
        completed = Counter(
            result.user_id
            for result in await read_whole(deployment, RESULTS, AgentResult)
            if result.status == "completed"
        )
        assert len(completed) == 7
        for user, turns in completed.items():
            head = await store.get("default", user, "s")
            assert head is not None
            assert head.turn == turns


@pytest.mark.slow
async def test_totals_stay_equal_when_the_worker_is_killed_and_another_one_starts(
    deployment: Settings, program: Upstream
) -> None:
    async with worker_process(deployment, name="first") as first:
        await first.ready()
        await run(program, deployment, 1, request_id="r1")
        await metrics_equal_the_topics(deployment, first)
        await run(program, deployment, 2, request_id="r2")
        await first.kill()
    async with worker_process(deployment, name="second") as second:
        await second.ready()
        await run(program, deployment, 3, request_id="r3")
        totals = await metrics_equal_the_topics(deployment, second)
        assert totals["results||completed"] == 3


@pytest.mark.promise("P6")
async def test_a_session_goes_on_from_the_log_when_redis_lost_everything(
    deployment: Settings, program: Upstream, store: RedisSessionStore
) -> None:
    async with worker_process(deployment) as worker:
        await worker.ready()
        await run(program, deployment, 1, request_id="r1")
        before = await eventually(lambda: store.get_checkpoint("default", "ada", "s"))
        assert before is not None
        assert before.event.turn == 1
        assert await lose_everything_in_redis(deployment) > 0
        assert await store.get("default", "ada", "s") is None
        await run(program, deployment, 2, request_id="r2")
        checkpoints = await read_topic(deployment, CHECKPOINTS, CheckpointSaved, count=2)
        assert [checkpoint.turn for checkpoint in checkpoints] == [1, 2]
        # The view heals with what the next run wrote.
        after = await eventually(lambda: store.get_checkpoint("default", "ada", "s"))
        assert after is not None
        assert after.event.request_id == "r2"


async def test_runs_complete_without_redis_and_the_worker_says_that_its_view_is_behind(
    deployment: Settings, program: Upstream
) -> None:
    async with worker_process(deployment, MILLSTREAM_REDIS_URL=NOBODY_LISTENS) as worker:
        await worker.ready()
        for number in (1, 2):
            result = await run(program, deployment, number, request_id=f"r{number}")
            assert result.status == "completed"
        checkpoints = await read_topic(deployment, CHECKPOINTS, CheckpointSaved, count=2)
        assert [checkpoint.turn for checkpoint in checkpoints] == [1, 2]
        await metrics_equal_the_topics(deployment, worker)

        async def behind() -> bool:
            return (await scrape(worker)).behind > 0

        await eventually(behind)
        assert not worker.ended_already
        assert (await answer(worker, "/health/live"))[0] == 200
        assert (await answer(worker, "/health/ready"))[0] == 200
