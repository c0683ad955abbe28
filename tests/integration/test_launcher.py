from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis.asyncio import Redis

from tests.support import eventually

_PROJECT = Path(__file__).resolve().parents[2]
_READY_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 40.0


@dataclass(frozen=True)
class Running:
    """A launcher as a child: what it printed, what it says, and the folder of its services."""

    process: subprocess.Popen[str]
    data: Path
    log: Path

    async def ready(self) -> dict[str, Any]:
        await eventually(self._note, timeout_s=_READY_TIMEOUT_S)
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line

    def _note(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(self.log.read_text())
        return (self.data / "endpoints.json").exists()

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(_END_TIMEOUT_S)


@contextmanager
def _launcher(
    data: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    log = data.with_name(f"{data.name}.log")
    command = (sys.executable, "-m", "millstream.infra", "up", "--data", str(data), *arguments)
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            cwd=_PROJECT,
            env={**os.environ, **(environment or {})},  # noqa: TID251  what a child inherits
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield Running(process, data, log)
        finally:
            process.kill()


def _processes_in(data: Path) -> list[str]:
    """Command lines of the processes that work in a folder below `data`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve().is_relative_to(data):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it ended while we looked
    return found


@asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def _create_topic(bootstrap: str, topic: str, replicas: int = 1) -> None:
    async with _admin(bootstrap) as admin:
        await admin.create_topics([NewTopic(topic, 1, replicas)])


async def _publish(bootstrap: str, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def _first_value(bootstrap: str, topic: str) -> bytes | None:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        record = await consumer.getone()
    finally:
        await consumer.stop()
    value: bytes | None = record.value
    return value


@pytest.mark.slow
async def test_a_second_start_finds_the_data_and_the_ports_of_the_first(tmp_path: Path) -> None:
    data = tmp_path / "a folder, with: odd [name]"
    with _launcher(data) as launcher:
        first = await launcher.ready()
        await _create_topic(first["kafka"], "kept")
        await _publish(first["kafka"], "kept", b"value")
        async with Redis.from_url(first["redis_url"]) as redis:
            await redis.set("kept", "value")
        assert launcher.end(signal.SIGINT) == 0
        assert _processes_in(data) == []
        assert not (data / "endpoints.json").exists()
    with _launcher(data) as launcher:
        second = await launcher.ready()
        assert (second["kafka"], second["redis_url"]) == (first["kafka"], first["redis_url"])
        assert await _first_value(second["kafka"], "kept") == b"value"
        async with Redis.from_url(second["redis_url"]) as redis:
            assert await redis.get("kept") == b"value"
        assert launcher.end(signal.SIGTERM) == 0
        assert _processes_in(data) == []


async def test_a_launcher_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with _launcher(data) as launcher:
        await launcher.ready()
        assert len(_processes_in(data)) == 2
        launcher.end(signal.SIGKILL)
        await eventually(lambda: _processes_in(data) == [])


async def test_an_interrupt_during_the_start_leaves_no_process_behind(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with _launcher(data) as launcher:
        await eventually(lambda: _processes_in(data))
        assert launcher.end(signal.SIGINT) == 0
        assert _processes_in(data) == []
    with _launcher(data) as launcher:
        await launcher.ready()


async def test_the_end_of_standard_input_stops_everything(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with _launcher(data, "--until-eof") as launcher:
        await launcher.ready()
        assert launcher.process.stdin is not None
        launcher.process.stdin.close()
        assert launcher.process.wait(_END_TIMEOUT_S) == 0
        assert _processes_in(data) == []


def _pids(data: Path) -> dict[str, int]:
    pids: dict[str, int] = json.loads((data / "endpoints.json").read_text())["pids"]
    return pids


async def test_redis_that_dies_is_started_again_and_kafka_stays_up(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with _launcher(data) as launcher:
        ready = await launcher.ready()
        before = ready["pids"]
        os.kill(before["redis"], signal.SIGKILL)
        await eventually(lambda: _pids(data)["redis"] != before["redis"])
        assert _pids(data)["kafka-1"] == before["kafka-1"]
        # Its process is there before it answers.
        await eventually(lambda: "redis answers again" in launcher.log.read_text())
        async with Redis.from_url(ready["redis_url"]) as redis:
            assert await redis.ping()
        assert launcher.end(signal.SIGHUP) == 0
        told = launcher.log.read_text()
        assert "redis was killed by SIGKILL: it is started again" in told
        assert "redis answers again" in told
        assert _processes_in(data) == []


@pytest.mark.slow
async def test_a_broker_that_dies_is_started_again_on_its_port_with_its_data(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    with _launcher(data) as launcher:
        ready = await launcher.ready()
        await _create_topic(ready["kafka"], "kept")
        await _publish(ready["kafka"], "kept", b"value")
        before = ready["pids"]
        os.kill(before["kafka-1"], signal.SIGKILL)
        await eventually(lambda: _pids(data)["kafka-1"] != before["kafka-1"], timeout_s=60)
        assert _pids(data)["redis"] == before["redis"]
        assert await _first_value(ready["kafka"], "kept") == b"value"
        assert launcher.end(signal.SIGTERM) == 0
        assert _processes_in(data) == []


async def test_services_that_run_are_named_to_a_second_launcher_and_can_be_used_by_it(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    with _launcher(data) as launcher:
        ready = await launcher.ready()
        with _launcher(data) as second:
            assert second.process.wait(_END_TIMEOUT_S) == 1
            told = second.log.read_text()
        assert f"in use by the launcher with pid {launcher.process.pid}" in told
        assert ready["kafka"] in told
        named = {"MILLSTREAM_KAFKA": ready["kafka"], "MILLSTREAM_REDIS_URL": ready["redis_url"]}
        with _launcher(tmp_path / "other", environment=named) as user:
            used = await user.ready()
            assert (used["kafka"], used["redis_url"]) == (ready["kafka"], ready["redis_url"])
            assert used["pids"] == {}
            assert user.end(signal.SIGINT) == 0


@pytest.mark.slow
@pytest.mark.cluster
async def test_three_brokers_come_up_as_one_cluster(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with _launcher(data, "--brokers", "3") as launcher:
        ready = await launcher.ready()
        assert ready["brokers"] == len(ready["kafka"].split(",")) == 3
        await _create_topic(ready["kafka"], "copied", replicas=3)
        await _publish(ready["kafka"], "copied", b"value")
        async with _admin(ready["kafka"]) as admin:
            [topic] = await admin.describe_topics(["copied"])
        assert sorted(topic["partitions"][0]["isr"]) == [1, 2, 3]
        assert launcher.end(signal.SIGINT) == 0
        assert _processes_in(data) == []
