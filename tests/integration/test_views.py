"""The views on real Kafka: what they count equals a recount of the topics, whatever happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial

import aiohttp
import pytest
import redis.asyncio
from aiokafka import AIOKafkaProducer

from agents.sessions import SessionStore
from schemas.base import Address, Event, Reason, Usage
from schemas.errors import ServiceUnavailable
from schemas.events import (
    AgentResult,
    AgentToken,
    CheckpointSaved,
    CostRecorded,
    DeadLetter,
    Decision,
)
from schemas.topics import (
    BASE_TOPICS,
    CHECKPOINTS,
    COSTS,
    DEAD_LETTERS,
    DECISIONS,
    RESULTS,
    TOKENS,
    TopicSpec,
)
from streams.clients import transactional_producer
from streams.codec import encode
from streams.exposition import Exposition, Readiness
from streams.faust_app import stop_app
from streams.memory_sessions import MemorySessionStore
from streams.metrics import MetricsCollector
from streams.partitioning import home_partition
from streams.redis_sessions import RedisSessionStore
from streams.settings import Settings
from streams.topic_admin import ensure_topics
from streams.views import Views
from tests.support import eventually

USERS = ("ada", "bob", "cleo", "dan", "eve")
SOURCE = Address(topic="requests", partition=0, offset=0)


@pytest.fixture
async def deployment(settings: Settings) -> Settings:
    await ensure_topics(settings, BASE_TOPICS)
    return settings


@pytest.fixture
async def producer(deployment: Settings) -> AsyncIterator[AIOKafkaProducer]:
    producer = transactional_producer(deployment, f"{deployment.namespace}-test")
    await producer.start()
    yield producer
    await producer.stop()


Start = Callable[..., Awaitable[Views]]


@pytest.fixture
async def start(deployment: Settings) -> AsyncIterator[Start]:
    """Starts views, which are stopped at the end of the test whatever became of it."""
    async with AsyncExitStack() as started:

        async def start(
            store: SessionStore | None = None, collector: MetricsCollector | None = None
        ) -> Views:
            views = Views(deployment, store or memory_store(), collector or MetricsCollector())
            started.push_async_callback(views.stop)
            await views.start()
            return views

        yield start


class SwitchableStore(MemorySessionStore):
    """A view that can be away, and then has lost everything it held."""

    away = False

    async def put_checkpoint(self, event: CheckpointSaved, offset: int) -> bool:
        if self.away:
            message = "switched off"
            raise ServiceUnavailable(message)
        return await super().put_checkpoint(event, offset)


class BrokenStore(MemorySessionStore):
    """A view with a defect: no outage, so not to be waited for."""

    async def put_checkpoint(self, event: CheckpointSaved, offset: int) -> bool:
        raise KeyError(event.session_id, offset)


def memory_store() -> SwitchableStore:
    return SwitchableStore(lambda: 0)


async def publish(
    producer: AIOKafkaProducer,
    settings: Settings,
    records: Iterable[tuple[TopicSpec, Event]],
    *,
    abort: bool = False,
) -> None:
    await producer.begin_transaction()
    for spec, event in records:
        encoded = encode(event, source="test")
        await producer.send(
            settings.topic(spec.name),
            encoded.value,
            key=encoded.key,
            partition=home_partition(event.partition_key, settings.partitions),
        )
    await (producer.abort_transaction() if abort else producer.commit_transaction())


def run_of(number: int) -> list[tuple[TopicSpec, Event]]:
    """Give the records of one run: rejected if its number divides by 5."""
    user = USERS[number % 3]
    ids = {"user_id": user, "request_id": f"r{number}", "session_id": f"{user}-s", "at_ms": number}
    rejected = number % 5 == 0
    reason = Reason(code="rate_limited", message="slow down") if rejected else None
    decision = Decision(**ids, admitted=not rejected, reason=reason, generation=1, source=SOURCE)
    result = AgentResult(
        **ids,
        status="rejected" if rejected else "completed",
        source=SOURCE,
        accepted_at_ms=1,
        started_at_ms=None if rejected else 8,
        first_token_at_ms=None if rejected else 40,
    )
    if rejected:
        return [(DECISIONS, decision), (RESULTS, result)]
    return [
        (DECISIONS, decision),
        (TOKENS, AgentToken(**ids, attempt=0, seq=0, text="hi", tokens=2)),
        (
            COSTS,
            CostRecorded(
                **ids,
                model="m",
                usage=Usage(input_tokens=number, output_tokens=3),
                cost_micros=10 + number,
                price_digest="d",
            ),
        ),
        (
            CHECKPOINTS,
            CheckpointSaved(**ids, checkpoint_id=f"c{number}", turn=number + 1, data="cw=="),
        ),
        (RESULTS, result),
    ]


def recount(runs: Iterable[int]) -> dict[str, dict[str, int]]:
    """Count what `run_of` published, independently of the views."""
    by_topic: dict[str, Counter[str]] = {spec.name: Counter() for spec in BASE_TOPICS}
    for number in runs:
        for spec, event in run_of(number):
            counts = by_topic[spec.name]
            match event:
                case Decision(admitted=True):
                    counts["requests|admitted|"] += 1
                case Decision():
                    counts["requests|rejected|rate_limited"] += 1
                case AgentResult():
                    counts[f"results|{event.status}"] += 1
                case AgentToken():
                    counts.update({"token_records|": 1, "streamed_tokens|": 2})
                case CostRecorded():
                    counts["cost_micros|m"] += event.cost_micros
                    counts["tokens|input"] += event.usage.input_tokens
                    counts["tokens|output"] += event.usage.output_tokens
                case CheckpointSaved():
                    counts["checkpoints|"] += 1
    return {name: dict(counts) for name, counts in by_topic.items()}


def counted(views: Views) -> dict[str, dict[str, int]]:
    """Give what the views hold, without the latencies."""
    return {
        spec.name: {
            name: amount
            for name, amount in views.totals(spec.name).totals.items()
            if not name.startswith("latency")
        }
        for spec in (DECISIONS, RESULTS, TOKENS, COSTS, CHECKPOINTS)
    }


async def counts(views: Views, runs: Iterable[int]) -> None:
    wanted = {name: value for name, value in recount(runs).items() if name in counted(views)}

    def equal() -> bool:
        assert counted(views) == wanted
        return True

    await eventually(equal)


async def test_totals_equal_a_recount_after_a_restart_in_the_middle(
    deployment: Settings, producer: AIOKafkaProducer, start: Start
) -> None:
    views = await start()
    for number in range(40):
        await publish(producer, deployment, run_of(number))
    await counts(views, range(40))
    await views.stop()
    for number in range(40, 60):
        await publish(producer, deployment, run_of(number))
    views = await start()
    await counts(views, range(60))
    spent = views.spend("default", "ada")
    assert spent is not None
    assert spent.totals["cost_micros|m"] == sum(
        10 + number for number in range(0, 60, 3) if number % 5
    )
    assert sum(m["cost_micros|m"] for m in spent.minutes.values()) == spent.totals["cost_micros|m"]
    await views.stop()


async def test_totals_equal_a_recount_when_counts_were_lost_after_their_offsets_were_committed(
    deployment: Settings, producer: AIOKafkaProducer, start: Start
) -> None:
    views = await start()
    for number in range(20):
        await publish(producer, deployment, run_of(number))
    await counts(views, range(20))
    # As a crash would: what is counted from here on never reaches the table, the offsets do.
    for view in views._views.values():
        view.flush = lambda: None  # type: ignore[method-assign]
    for number in range(20, 40):
        await publish(producer, deployment, run_of(number))
    results = views._views[deployment.topic(RESULTS.name)]
    await eventually(
        lambda: sum(f.total.totals["results|completed"] for f in results._folds.values()) == 32
    )
    await views.app.consumer.commit()
    await views.stop()
    views = await start()
    await counts(views, range(40))
    await views.stop()


async def test_totals_equal_a_recount_when_a_second_worker_joins_and_the_first_leaves(
    deployment: Settings, producer: AIOKafkaProducer, start: Start
) -> None:
    first = await start()
    for number in range(30):
        await publish(producer, deployment, run_of(number))
    second = await start()
    for number in range(30, 40):
        await publish(producer, deployment, run_of(number))

    def together() -> bool:
        wanted = recount(range(40))[RESULTS.name]
        parts = Counter(counted(first)[RESULTS.name]) + Counter(counted(second)[RESULTS.name])
        assert parts == wanted
        return True

    await eventually(together)
    await first.stop()
    for number in range(40, 50):
        await publish(producer, deployment, run_of(number))
    await counts(second, range(50))
    await second.stop()


async def test_aborted_records_are_not_counted(
    deployment: Settings, producer: AIOKafkaProducer, start: Start
) -> None:
    views = await start()
    await publish(producer, deployment, run_of(1), abort=True)
    await publish(producer, deployment, run_of(2))
    await counts(views, [2])
    await views.stop()


async def test_an_unreadable_record_is_counted_and_those_behind_it_too(
    deployment: Settings, producer: AIOKafkaProducer, start: Start
) -> None:
    views = await start()
    home = home_partition("bob", deployment.partitions)
    await producer.begin_transaction()
    for value in (b"\xff", None, b'{"user_id": 7}'):
        await producer.send(deployment.topic(RESULTS.name), value, key=b"k", partition=home)
    await producer.commit_transaction()
    await publish(producer, deployment, run_of(1))
    await eventually(
        lambda: (
            views.totals(RESULTS.name).totals
            and counted(views)[RESULTS.name]
            == {
                "unreadable|not_json": 1,
                "unreadable|null_value": 1,
                "unreadable|wrong_shape": 1,
                "results|completed": 1,
            }
        )
    )
    assert views.failure is None
    await views.stop()


async def test_dead_letters_are_counted_by_reason(
    deployment: Settings, producer: AIOKafkaProducer, start: Start
) -> None:
    views = await start()
    letter = DeadLetter(
        reason=Reason(code="not_json", message="no"),
        source=SOURCE,
        source_at_ms=1,
        key=None,
        value=None,
    )
    await publish(producer, deployment, [(DEAD_LETTERS, letter)])
    await eventually(lambda: views.totals(DEAD_LETTERS.name).totals == {"dead_letters|not_json": 1})
    await views.stop()


async def test_a_view_that_was_away_gets_every_session_once_it_answers(
    deployment: Settings, producer: AIOKafkaProducer, start: Start
) -> None:
    store = memory_store()
    collector = MetricsCollector()
    views = await start(store, collector)
    store.away = True
    for number in (1, 2, 3):
        await publish(producer, deployment, run_of(number))
    await counts(views, (1, 2, 3))
    behind = "millstream_session_view_partitions_behind"
    await eventually(lambda: collector.registry.get_sample_value(behind))
    store.away = False
    for user in USERS[:3]:
        await eventually(partial(store.get, "default", user, f"{user}-s"))
    await eventually(lambda: collector.registry.get_sample_value(behind) == 0)
    await views.stop()


async def test_what_a_view_lacks_is_made_up_for_after_a_restart(
    deployment: Settings, producer: AIOKafkaProducer, start: Start
) -> None:
    store = memory_store()
    store.away = True
    views = await start(store)
    await publish(producer, deployment, run_of(1))
    await counts(views, [1])
    await views.stop()
    store.away = False
    views = await start(store)
    await eventually(lambda: store.get("default", "bob", "bob-s"))
    await counts(views, [1])
    await views.stop()


async def test_a_flushed_redis_has_a_session_again_after_its_next_turn(
    deployment: Settings, producer: AIOKafkaProducer, start: Start
) -> None:
    store = RedisSessionStore(deployment)
    views = await start(store)
    await publish(producer, deployment, run_of(1))
    await eventually(lambda: store.get("default", "bob", "bob-s"))
    async with redis.asyncio.Redis.from_url(deployment.redis_url) as client:
        keys = [key async for key in client.scan_iter(f"{deployment.namespace}:*")]
        await client.delete(*keys)
    assert await store.get_checkpoint("default", "bob", "bob-s") is None
    await publish(producer, deployment, run_of(4))
    kept = await eventually(lambda: store.get_checkpoint("default", "bob", "bob-s"))
    assert kept is not None
    assert kept.event.checkpoint_id == "c4"
    head = await eventually(lambda: store.get("default", "bob", "bob-s"))
    assert head is not None
    assert (head.turn, head.last_request_id) == (5, "r4")
    await views.stop()
    await store.close()


async def test_metrics_serve_what_the_tables_hold(
    deployment: Settings, producer: AIOKafkaProducer, start: Start
) -> None:
    collector, readiness = MetricsCollector(), Readiness()
    exposition = Exposition(deployment, collector, readiness)
    await exposition.start()
    views = await start(collector=collector)
    assert views.unready() == []
    for number in range(10):
        await publish(producer, deployment, run_of(number))
    await counts(views, range(10))
    async with (
        aiohttp.ClientSession(exposition.url) as http,
        http.get("/metrics") as answer,
    ):
        text = await answer.text()
    assert total(text, "millstream_requests_total", 'decision="admitted"') == 8
    assert total(text, "millstream_requests_total", 'reason="rate_limited"') == 2
    assert total(text, "millstream_results_total", 'status="completed"') == 8
    assert total(text, "millstream_tokens_total", 'direction="output"') == 24
    assert total(text, "millstream_latency_seconds_count", 'step="queue"') == 8
    assert total(text, "millstream_latency_seconds_bucket", 'le="0.01",', 'step="queue"') == 8
    await exposition.stop()


async def test_views_that_failed_say_so_and_write_nothing_more(
    deployment: Settings, producer: AIOKafkaProducer, start: Start
) -> None:
    store = BrokenStore(lambda: 0)
    views = await start(store)
    await publish(producer, deployment, run_of(1))
    await eventually(lambda: isinstance(views.failure, KeyError))
    assert "KeyError" in views.unready()[0]
    await publish(producer, deployment, run_of(2))
    await views.stop()
    views = await start()
    await counts(views, (1, 2))
    await views.stop()


async def test_views_are_not_ready_before_they_started(deployment: Settings) -> None:
    views = Views(deployment, memory_store(), MetricsCollector())
    assert views.unready() == ["the views are not started"]


async def test_an_app_stops_promptly(start: Start) -> None:
    views = await start()
    assert await stop_app(views.app, timeout_s=5)


def total(text: str, name: str, *labels: str) -> float:
    lines = (line for line in text.splitlines() if line.startswith(f"{name}{{"))
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels)
    )
