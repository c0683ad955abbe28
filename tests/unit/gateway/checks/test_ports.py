"""What `doctor` finds of the address that a worker serves its metrics at."""

from __future__ import annotations

import asyncio

import pytest

from millstream.gateway.checks.finding import Finding
from millstream.gateway.checks.ports import check_metrics_port
from millstream.streams.settings import Settings
from millstream.streams.telemetry.exposition import Exposition, Readiness
from millstream.streams.telemetry.metrics import MetricsCollector


async def found(
    monkeypatch: pytest.MonkeyPatch, port: int | str, host: str = "127.0.0.1"
) -> Finding:
    monkeypatch.setenv("MILLSTREAM_METRICS_PORT", str(port))
    monkeypatch.setenv("MILLSTREAM_METRICS_HOST", host)
    (finding,) = await check_metrics_port()
    return finding


async def test_a_port_that_another_program_has_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        taken = await found(monkeypatch, port)
    assert taken.level == "wrong"
    assert f"127.0.0.1:{port}" in taken.told
    assert "MILLSTREAM_METRICS_PORT" in taken.remedy
    assert (await found(monkeypatch, port)).told == f"127.0.0.1:{port} is free"


async def test_a_port_that_a_worker_serves_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Exposition(Settings(), MetricsCollector(), Readiness())
    await worker.start()
    try:
        served = await found(monkeypatch, worker.url.rpartition(":")[2])
    finally:
        await worker.stop()
    assert served.level == "ok"
    assert "a worker serves 127.0.0.1:" in served.told


async def test_an_address_of_another_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = await found(monkeypatch, 0, host="192.0.2.1")
    assert elsewhere.level == "wrong"
    assert "MILLSTREAM_METRICS_HOST" in elsewhere.remedy


async def test_any_free_port_is_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await found(monkeypatch, 0)).told == "any free one of 127.0.0.1"
