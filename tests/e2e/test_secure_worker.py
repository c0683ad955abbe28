"""A worker on brokers with users and TLS, whose credentials change while it runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import aiohttp
import pytest

from millstream.schemas.events import AgentRequest, AgentResult
from millstream.schemas.topics import RESULTS
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.settings import Settings
from tests.harness.secure_kafka import PASSWORD, SecureKafka, secure_kafka
from tests.harness.worker_process import worker_process
from tests.services.users import plaintext
from tests.support import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WRONG = "not-the-password"


@pytest.fixture(scope="module")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureKafka]:
    async with secure_kafka(tmp_path_factory.mktemp("secure")) as running:
        yield running


async def result_of(bus: KafkaBus, request_id: str) -> str:
    async with bus.tail((RESULTS,)) as results:
        await bus.publish(AgentRequest(user_id="ada", request_id=request_id, input="say: hello"))
        async for delivery in results:
            event = delivery.event
            if isinstance(event, AgentResult) and event.request_id == request_id:
                return event.output
    raise AssertionError


async def asked(url: str) -> tuple[int, str]:
    ready = url.replace("/metrics", "/health/ready")
    async with aiohttp.ClientSession() as session, session.get(ready) as answer:
        return answer.status, await answer.text()


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def _says(url: str, words: str) -> bool:
    status, told = await asked(url)
    return status != HTTPStatus.OK and words in told


async def _is_ready(url: str) -> bool:
    return (await asked(url))[0] == HTTPStatus.OK


async def test_a_worker_survives_a_password_that_is_wrong_for_a_while(
    kafka: SecureKafka, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o600)
    own = kafka.settings(settings, "SHORT", **kafka.plain(sasl_password_file=file))
    plain = plaintext(settings, kafka=kafka.addresses["PLAIN"])
    async with worker_process(own) as worker:
        await worker.ready()
        async with KafkaBus(plain) as bus:
            assert await result_of(bus, "r1") == "hello"
            file.write_text(WRONG)
            url = worker.info["metrics_url"]
            await eventually(
                lambda: _says(url, "it refuses user 'ada' or its password"), timeout_s=60
            )
            file.write_text(f"{PASSWORD}\n")
            assert await result_of(bus, "r2") == "hello"
            await eventually(lambda: _is_ready(url), timeout_s=60)
        assert not worker.ended_already
        log = worker.log
    assert "outage began" in log
    assert len([line for line in log.splitlines() if "it refuses" in line]) < 10
    assert PASSWORD not in log
    assert WRONG not in log


async def test_a_worker_over_tls_shows_its_secrets_nowhere(
    kafka: SecureKafka, settings: Settings
) -> None:
    own = kafka.settings(settings, "SCRAM", **kafka.scram())
    async with worker_process(own, MILLSTREAM_LOG_LEVEL="debug") as worker:
        await worker.ready()
        async with KafkaBus(own) as bus:
            assert await result_of(bus, "r1") == "hello"
        arguments = command_line(worker.pid)
        log = worker.log
    assert "Sasl" in log
    assert PASSWORD not in log
    assert PASSWORD.encode() not in arguments
    written = [path for path in settings.data_dir.rglob("*") if path.is_file()]
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]
    assert PASSWORD not in json.dumps(repr(own))
