"""A worker that is told to end before it is up, or while no broker answers: it ends well."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.programs import ended, line_with, millstream
from tests.services.launcher import launched
from tests.support import eventually

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def heeds(pid: int, number: signal.Signals) -> bool:
    """Tell whether a process handles a signal itself; Linux has such a mask of each."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_worker_that_is_still_imported_ends_with_0(number: signal.Signals) -> None:
    async with millstream({"MILLSTREAM_KAFKA": "127.0.0.1:1"}, "worker") as worker:
        # That of SIGINT is there by then, and next to nothing is imported.
        await eventually(lambda: heeds(worker.pid, signal.SIGTERM))
        worker.send_signal(number)
        done = await ended(worker)
    assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_worker_whose_kafka_does_not_answer_yet_ends_with_0(
    number: signal.Signals, tmp_path: Path
) -> None:
    asked = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as kafka:
        host, port = kafka.sockets[0].getsockname()
        environment = {
            "MILLSTREAM_KAFKA": f"{host}:{port}",
            "MILLSTREAM_DATA_DIR": str(tmp_path),
            "MILLSTREAM_DEFAULT_MODEL": "scripted",
            "MILLSTREAM_SCRIPTED_MODEL": "on",
        }
        async with millstream(environment, "worker") as worker:
            await asyncio.wait_for(asked.wait(), 60)
            worker.send_signal(number)
            done = await ended(worker)
    assert (done.code, done.out) == (0, "")
    assert "told to end before it is up" in done.err
    assert "Unclosed" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_worker_whose_broker_is_gone_ends_with_0(tmp_path: Path) -> None:
    with ExitStack() as services:
        named = services.enter_context(launched(tmp_path / "services", {}))
        environment = {
            "MILLSTREAM_KAFKA": named["kafka"],
            "MILLSTREAM_REDIS_URL": named["redis_url"],
            "MILLSTREAM_DATA_DIR": str(tmp_path),
            "MILLSTREAM_DEFAULT_MODEL": "scripted",
            "MILLSTREAM_SCRIPTED_MODEL": "on",
            "MILLSTREAM_SHUTDOWN_GRACE_S": "1",
        }
        async with millstream(environment, "worker") as worker:
            assert worker.stdout is not None
            await line_with(worker.stdout, "metrics_url")
            await asyncio.to_thread(services.close)
            worker.send_signal(signal.SIGTERM)
            done = await ended(worker)
    assert (done.code, done.out) == (0, "")
    assert "not in 26 s" not in done.err
    assert "Traceback" not in done.err
