from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from millstream.schemas.errors import Misconfigured
from millstream.streams.settings import Settings
from millstream.streams.telemetry.exposition import Exposition, Readiness
from millstream.streams.telemetry.metrics import MetricsCollector


@pytest.fixture
def collector() -> MetricsCollector:
    return MetricsCollector()


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
async def server(collector: MetricsCollector, readiness: Readiness) -> AsyncIterator[Exposition]:
    server = Exposition(Settings(), collector, readiness)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def http(server: Exposition) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as session:
        yield session


async def test_metrics_are_served_as_prometheus_text(
    http: aiohttp.ClientSession, collector: MetricsCollector
) -> None:
    collector.counter("runs", "Runs.").inc(3)
    async with http.get("/metrics") as answer:
        assert answer.content_type == "text/plain"
        assert "runs_total 3.0" in await answer.text()


async def test_metrics_are_served_as_openmetrics_to_who_accepts_it(
    http: aiohttp.ClientSession, collector: MetricsCollector
) -> None:
    collector.counter("runs", "Runs.").inc()
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with http.get("/metrics", headers=accept) as answer:
        assert answer.content_type == "application/openmetrics-text"
        assert (await answer.text()).endswith("# EOF\n")


async def test_a_process_is_ready_once_every_part_is(
    http: aiohttp.ClientSession, readiness: Readiness
) -> None:
    async with http.get("/health/ready") as answer:
        assert (answer.status, (await answer.json())["ready"]) == (503, False)
    readiness.set("kafka", None)
    readiness.set("views", "3 partitions are restored")
    async with http.get("/health/ready") as answer:
        assert answer.status == 503
        reasons = {"views": "3 partitions are restored"}
        assert await answer.json() == {"ready": False, "reasons": reasons, "warnings": []}
    readiness.set("views", None)
    async with http.get("/health/ready") as answer:
        ready = {"ready": True, "reasons": {}, "warnings": []}
        assert (answer.status, await answer.json()) == (200, ready)


async def test_a_warning_stands_beside_ready_and_does_not_change_its_status(
    http: aiohttp.ClientSession, readiness: Readiness
) -> None:
    readiness.set("worker", None)
    readiness.warn(["requests, partitions 3: retention deleted 4 records"])
    async with http.get("/health/ready") as answer:
        assert answer.status == 200
        told = await answer.json()
    assert told["ready"] is True
    assert told["warnings"] == ["requests, partitions 3: retention deleted 4 records"]
    readiness.warn([])
    async with http.get("/health/ready") as answer:
        assert (await answer.json())["warnings"] == []


async def test_a_process_is_alive_while_it_is_not_ready(
    http: aiohttp.ClientSession, readiness: Readiness
) -> None:
    readiness.set("kafka", "no broker answers")
    async with http.get("/health/live") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("host", ["nope.invalid", "192.0.2.1"])
async def test_a_host_that_is_not_this_machine_is_told(host: str) -> None:
    elsewhere = Exposition(Settings(metrics_host=host), MetricsCollector(), Readiness())
    with pytest.raises(Misconfigured, match="set MILLSTREAM_METRICS_HOST"):
        await elsewhere.start()


async def test_a_port_in_use_is_told(server: Exposition) -> None:
    taken = Settings(metrics_port=int(server.url.rsplit(":", 1)[1]))
    second = Exposition(taken, MetricsCollector(), Readiness())
    with pytest.raises(Misconfigured, match="MILLSTREAM_METRICS_PORT"):
        await second.start()
