from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from schemas.errors import Misconfigured
from streams.exposition import MetricsServer
from streams.metrics import MetricsCollector
from streams.readiness import Readiness
from streams.settings import Settings


@pytest.fixture
def collector() -> MetricsCollector:
    return MetricsCollector()


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
async def server(collector: MetricsCollector, readiness: Readiness) -> AsyncIterator[MetricsServer]:
    server = MetricsServer(Settings(), collector.registry, readiness)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def http(server: MetricsServer) -> AsyncIterator[aiohttp.ClientSession]:
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


async def test_a_process_is_ready_when_no_check_objects(
    http: aiohttp.ClientSession, readiness: Readiness
) -> None:
    reason: str | None = "views: 3 partitions to restore"
    readiness.add("views", lambda: reason)
    async with http.get("/health/ready") as answer:
        assert answer.status == 503
        assert await answer.json() == {"ready": False, "reasons": {"views": reason}}
    reason = None
    async with http.get("/health/ready") as answer:
        assert (answer.status, await answer.json()) == (200, {"ready": True, "reasons": {}})


async def test_a_process_is_alive_while_it_is_not_ready(
    http: aiohttp.ClientSession, readiness: Readiness
) -> None:
    readiness.add("kafka", lambda: "no broker answers")
    async with http.get("/health/live") as answer:
        assert answer.status == 200


async def test_a_port_in_use_is_told(server: MetricsServer) -> None:
    taken = Settings(metrics_port=int(server.url.rsplit(":", 1)[1]))
    second = MetricsServer(taken, MetricsCollector().registry, Readiness())
    with pytest.raises(Misconfigured, match="MILLSTREAM_METRICS_PORT"):
        await second.start()
