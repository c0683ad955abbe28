"""A worker that is told to end before it is up, or while no broker answers: it ends well."""

from __future__ import annotations

import asyncio
import secrets
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest

from millstream.infra.kafka.jars import class_path, read_lock
from millstream.infra.kafka.node import JavaSettings, KafkaCluster, KafkaNode, port_names
from millstream.infra.paths import LOCK_FILE, cache_folder
from millstream.infra.state import LauncherState
from millstream.schemas.events import AgentResult, AgentToken
from millstream.schemas.topics import RESULTS, TOKENS
from tests.e2e.programs import ended, millstream
from tests.harness.audit import Asked, audit, read_records
from tests.harness.lanes import read_topic, upstream
from tests.harness.worker_process import worker_process
from tests.services.running import Services
from tests.services.users import plaintext
from tests.support import eventually

GRACE_S = 10.0
AFTER_THE_GRACE_S = 1.0
"""For a busy machine: without a broker, all of it ends within the grace."""

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


class Away(Protocol):
    """Takes a broker away."""

    async def __call__(self, node: KafkaNode) -> None: ...


async def stop(node: KafkaNode) -> None:
    """As a machine that is switched off: what is connected to it is refused."""
    await node.kill()


async def freeze(node: KafkaNode) -> None:
    """As a lost network: connections stay, and nothing is answered."""
    node.signal(signal.SIGSTOP)


async def bring_back(node: KafkaNode) -> None:
    """Have it answer again."""
    if node.pid is None:
        await node.start()
    else:
        node.signal(signal.SIGCONT)


def broker(data: Path) -> KafkaCluster:
    """Give a broker of the test's own, not started."""
    state = LauncherState.load(data, 1).with_ports(port_names(1))
    java = JavaSettings(class_path(read_lock(LOCK_FILE), cache_folder()))
    return KafkaCluster.at(data, state.ports, state.cluster_id, java, 1)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("take_away", [stop, freeze])
async def test_a_worker_whose_broker_is_away_ends_in_time_with_0_and_leaves_its_run_to_the_next(
    take_away: Away, tmp_path: Path, services: Services
) -> None:
    cluster = broker(tmp_path / "kafka")
    (node,) = cluster.nodes
    own = services.settings(namespace=f"t-{secrets.token_hex(6)}", data_dir=tmp_path)
    settings = plaintext(own, kafka=cluster.bootstrap)
    one = Asked("r1", "ada", "s")
    now = asyncio.get_running_loop().time
    async with AsyncExitStack() as stack:
        stack.push_async_callback(cluster.kill)
        await cluster.start()
        first = await stack.enter_async_context(
            worker_process(settings, name="first", MILLSTREAM_SHUTDOWN_GRACE_S=f"{GRACE_S:g}")
        )
        await first.ready()
        async with upstream(settings) as program:
            request = {"user_id": one.user_id, "session_id": "s", "request_id": one.request_id}
            await program.publish(
                {**request, "input": "pace: 0.3; tokens: 60"}, key=one.user_id.encode()
            )
        await read_topic(settings, TOKENS, AgentToken, count=1)
        await take_away(node)
        asked_at_s = now()
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0, first.log
        took_s = now() - asked_at_s
        assert took_s < GRACE_S + AFTER_THE_GRACE_S, first.log
        told = [line for line in first.log.splitlines() if "Kafka was not told of the end" in line]
        assert len(told) == 1, first.log
        assert "lanes of chain" in told[0]
        assert "Traceback" not in first.log
        assert "what it waits for" not in first.log
        await bring_back(node)
        second = await stack.enter_async_context(worker_process(settings, name="second"))
        await second.ready()
        await read_topic(settings, RESULTS, AgentResult, count=1, timeout_s=90)
        assert audit([one], await read_records(settings), priced=False).faults == {}
