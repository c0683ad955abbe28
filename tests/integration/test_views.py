"""The views on real Kafka: what they count equals a recount of the topics, whatever happens."""

from __future__ import annotations

from collections import Counter

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer

from millstream.schemas.base import Reason
from millstream.schemas.topics import COSTS, DEAD_LETTERS, RESULTS
from millstream.streams.broker.clients import admin_client, transactional_producer
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.consumer.faust_app import stop_app
from millstream.streams.sessions.memory import MemorySessionStore
from millstream.streams.settings import Settings
from millstream.streams.telemetry.exposition import Exposition, Readiness
from millstream.streams.telemetry.metrics import MetricsCollector
from millstream.streams.views import lag
from millstream.streams.views.group_lag import group_lags
from millstream.streams.views.service import Views
from millstream.streams.wire.codec import encode
from millstream.streams.wire.partitioning import home_partition
from tests import making
from tests.harness.views import SOURCE, StartViews, counted, counts, publish, recount, run_of
from tests.support import eventually


@pytest.mark.slow
@pytest.mark.promise("P8")
async def test_totals_equal_a_recount_after_a_restart_in_the_middle(
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    views = await start_views()
    for number in range(40):
        await publish(producer, deployment, run_of(number))
    await counts(views, range(40))
    await views.stop()
    for number in range(40, 60):
        await publish(producer, deployment, run_of(number))
    views = await start_views()
    await counts(views, range(60))
    spent = views.spend("default", "ada")
    assert spent is not None
    assert spent.totals["cost_micros|m"] == sum(
        10 + number for number in range(0, 60, 3) if number % 5
    )
    assert sum(m["cost_micros|m"] for m in spent.minutes.values()) == spent.totals["cost_micros|m"]
    await views.stop()


@pytest.mark.promise("P8")
async def test_totals_equal_a_recount_when_counts_were_lost_after_their_offsets_were_committed(
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    views = await start_views()
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
    views = await start_views()
    await counts(views, range(40))
    await views.stop()


@pytest.mark.slow
@pytest.mark.promise("P8")
async def test_totals_equal_a_recount_when_a_second_worker_joins_and_the_first_leaves(
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    first = await start_views()
    for number in range(30):
        await publish(producer, deployment, run_of(number))
    second = await start_views()
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
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    views = await start_views()
    await publish(producer, deployment, run_of(1), abort=True)
    await publish(producer, deployment, run_of(2))
    await counts(views, [2])
    await views.stop()


@pytest.mark.slow
async def test_topic_that_was_made_anew_while_no_views_ran_is_counted_from_its_beginning(
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    first = await start_views()
    for number in range(10):
        await publish(producer, deployment, run_of(number))
    await counts(first, range(10))
    await first.stop()
    costs = deployment.topic(COSTS.name)
    admin = admin_client(deployment)
    await admin.start()
    try:
        await admin.delete_topics([costs])

        async def gone() -> bool:
            return costs not in await admin.list_topics()

        await eventually(gone)
    finally:
        await admin.close()
    await ensure_topics(deployment, [COSTS])
    anew = transactional_producer(deployment, f"{deployment.namespace}-anew")
    await anew.start()
    try:
        for number in range(10, 13):
            await publish(anew, deployment, run_of(number))
    finally:
        await anew.stop()
    second = await start_views()
    await counts(second, range(13))
    await second.stop()


async def test_an_unreadable_record_is_counted_and_those_behind_it_too(
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    views = await start_views()
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
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    views = await start_views()
    letter = making.dead_letter(reason=Reason(code="not_json", message="no"), source=SOURCE)
    await publish(producer, deployment, [(DEAD_LETTERS, letter)])
    await eventually(lambda: views.totals(DEAD_LETTERS.name).totals == {"dead_letters|not_json": 1})
    await views.stop()


async def test_metrics_serve_what_the_tables_hold(
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    collector, readiness = MetricsCollector(), Readiness()
    exposition = Exposition(deployment, collector, readiness)
    await exposition.start()
    views = await start_views(collector=collector)
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


async def test_views_are_not_ready_before_they_started(deployment: Settings) -> None:
    views = Views(deployment, MemorySessionStore(lambda: 0), MetricsCollector())
    assert views.unready() == ["the views are not started"]


async def test_an_app_stops_promptly(start_views: StartViews) -> None:
    views = await start_views()
    assert await stop_app(views.app, timeout_s=5)


def total(text: str, name: str, *labels: str) -> float:
    lines = (line for line in text.splitlines() if line.startswith(f"{name}{{"))
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels)
    )


async def test_lag_is_told_while_views_are_behind_and_zero_behind_the_last_marker(
    deployment: Settings,
    producer: AIOKafkaProducer,
    start_views: StartViews,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(30):
        await publish(producer, deployment, run_of(number))
    collector = MetricsCollector()
    views = await start_views(None, collector)
    await counts(views, range(30))
    home = str(home_partition("ada", deployment.partitions))

    def of(figure: str, view: str) -> float | None:
        labels = {"view": view, "partition": home}
        return collector.registry.get_sample_value(f"millstream_view_lag_{figure}", labels)

    await eventually(lambda: of("records", "results") == 0 and of("seconds", "results") == 0)
    await eventually(lambda: of("records", "tokens") == 0)
    assert not views.behind()
    # What a transaction holds back that stays open is not counted either.
    await producer.begin_transaction()
    spec, event = next(pair for pair in run_of(31) if pair[0] is RESULTS)
    encoded = encode(event, source="test")
    at = home_partition("ada", deployment.partitions)
    await (
        await producer.send(
            deployment.topic(spec.name), encoded.value, key=encoded.key, partition=at
        )
    )
    await eventually(lambda: of("records", "results") == 1 and (of("seconds", "results") or 0) > 0)
    monkeypatch.setattr(lag, "BEHIND_S", 0.1)
    await eventually(lambda: any("results by 1 records" in told for told in views.behind()))
    await producer.commit_transaction()
    await eventually(lambda: of("records", "results") == 0)
    await eventually(lambda: not views.behind())


async def test_the_last_minute_is_told_of_every_view_also_where_nothing_comes(
    start_views: StartViews,
) -> None:
    collector = MetricsCollector()
    await start_views(None, collector)

    def minute(view: str) -> float | None:
        return collector.registry.get_sample_value(
            "millstream_last_minute_start_timestamp_seconds", {"view": view}
        )

    await eventually(lambda: minute("results") is not None and minute("session_states") is not None)


async def test_whoever_asks_is_told_what_the_views_group_has_yet_to_count(
    deployment: Settings, producer: AIOKafkaProducer, start_views: StartViews
) -> None:
    assert await group_lags(deployment) is None
    views = await start_views()
    for number in range(10):
        await publish(producer, deployment, run_of(number))
    await counts(views, range(10))

    async def counted_all() -> bool:
        return await group_lags(deployment) == {}

    await eventually(counted_all)  # though markers stand behind the last records
    await views.stop()
    await publish(producer, deployment, run_of(11))
    lags = await group_lags(deployment)
    assert lags is not None
    assert set(lags) == {spec.name for spec, _ in run_of(11)}
    assert lags[RESULTS.name].records >= 1
    assert lags[RESULTS.name].oldest_ms > 0
