"""Brokers that come back at other addresses, behind the name that was configured."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from millstream.infra.kafka.jars import class_path, read_lock
from millstream.infra.kafka.node import JavaSettings, KafkaCluster, port_names
from millstream.infra.paths import LOCK_FILE, cache_folder
from millstream.infra.ports import HOST, choose_ports
from millstream.infra.state import LauncherState
from millstream.schemas.events import AgentRequest, AgentResult
from millstream.schemas.topics import RESULTS, catalogue
from millstream.streams.broker.topic_admin import ensure_topics
from millstream.streams.bus.api import Delivery
from millstream.streams.bus.kafka import KafkaBus
from millstream.streams.bus.token_reader import Ended, TokenReader
from millstream.streams.settings import Settings
from tests.chaos.proxy import proxied
from tests.harness.worker_process import worker_process
from tests.services.users import plaintext

pytestmark = [pytest.mark.promise("P1"), pytest.mark.slow]

FOUND_WITHIN_S = 90.0


def cluster_at_other_ports(data: Path, cluster_id: str) -> KafkaCluster:
    ports = choose_ports(port_names(1), {})
    java = JavaSettings(class_path(read_lock(LOCK_FILE), cache_folder()))
    return KafkaCluster.at(data, ports, cluster_id, java, 1)


@pytest.mark.timeout(300)
async def test_worker_tail_and_reader_find_brokers_that_came_back_at_other_addresses(
    settings: Settings, tmp_path: Path
) -> None:
    cluster_id = LauncherState.load(tmp_path, 1).cluster_id
    before = cluster_at_other_ports(tmp_path / "kafka", cluster_id)
    name = choose_ports(("name",), {})["name"]
    settings = plaintext(settings, kafka=f"{HOST}:{name}")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(before.kill)
        await before.start()
        proxy = await stack.enter_async_context(proxied(name, HOST, before.nodes[0].spec.port))
        await ensure_topics(settings, catalogue())
        worker = await stack.enter_async_context(worker_process(settings))
        await worker.ready()
        bus = await stack.enter_async_context(KafkaBus(settings))
        results = await stack.enter_async_context(bus.tail((RESULTS,)))
        await bus.publish(AgentRequest(user_id="ada", request_id="r1", input="say: before"))
        assert result_of(await anext(results)).output == "before"
        async with TokenReader(bus, "ada", "r2", timeout_s=FOUND_WITHIN_S) as reader:
            await before.kill()
            after = cluster_at_other_ports(tmp_path / "kafka", cluster_id)
            stack.push_async_callback(after.kill)
            await after.start()
            assert after.nodes[0].spec.port != before.nodes[0].spec.port
            proxy.lead(after.nodes[0].spec.port)
            # Somebody who comes now finds them at once; those who were here look for them.
            async with KafkaBus(settings) as other:
                await other.publish(
                    AgentRequest(user_id="ada", request_id="r2", input="say: after")
                )
            async with asyncio.timeout(FOUND_WITHIN_S):
                pieces = [piece async for piece in reader]
                assert isinstance(pieces[-1], Ended)
                assert pieces[-1].result.output == "after"
                assert result_of(await anext(results)).output == "after"
        await bus.publish(AgentRequest(user_id="ada", request_id="r3", input="say: on"))
        assert result_of(await anext(results)).output == "on"


def result_of(one: Delivery) -> AgentResult:
    assert isinstance(one.event, AgentResult)
    return one.event
