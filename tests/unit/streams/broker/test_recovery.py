"""Clients whose brokers were away, hang, or came back at other addresses.

The cases are those of aiokafka's issues 456, 496 and 703, and of kafka-python's 1083.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import CoordinationType
from aiokafka.errors import KafkaConnectionError, RequestTimedOutError

from millstream.infra.ports import choose_ports
from millstream.streams.broker import recovery
from millstream.streams.broker.recovery import RecoveringClient, recover_brokers
from tests.fakes.metadata_broker import HOST, metadata_broker


@asynccontextmanager
async def _client(*ports: int) -> AsyncIterator[RecoveringClient]:
    recover_brokers()
    client = RecoveringClient(bootstrap_servers=[f"{HOST}:{port}" for port in ports])
    try:
        await client.bootstrap()
        yield client
    finally:
        await client.close()


async def _until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(8):
        while not await true():
            pass


async def test_brokers_that_came_back_at_other_addresses_are_found_by_the_configured_names() -> (
    None
):
    ports = choose_ports(("first", "second"), {})
    async with _opened_then_closed(ports["first"], *ports.values()) as client:
        assert not await client.force_metadata_update()
        async with metadata_broker(ports["second"]):
            await _until(client.force_metadata_update)
            assert client.cluster.broker_metadata(0).port == ports["second"]
            assert await client.ready(0)


@asynccontextmanager
async def _opened_then_closed(port: int, *names: int) -> AsyncIterator[RecoveringClient]:
    async with metadata_broker(port) as broker:
        client = RecoveringClient(bootstrap_servers=[f"{HOST}:{name}" for name in names])
        recover_brokers()
        await client.bootstrap()
        assert await client.ready(0)
        assert broker.connections
        for conn in client._conns.values():
            conn.close()
    try:
        yield client
    finally:
        await client.close()


async def test_broker_that_refuses_is_tried_again_after_growing_pauses() -> None:
    port = choose_ports(("gone",), {})["gone"]
    async with _opened_then_closed(port, port) as client:
        now = asyncio.get_running_loop().time
        tried_at = []
        for _ in range(5):
            assert not await client.ready(0)
            tried_at.append(now())
        pauses = [later - earlier for earlier, later in pairwise(tried_at)]
        assert pauses[-1] > pauses[0]
        assert tried_at[-1] - tried_at[0] > 1


async def test_broker_that_hangs_holds_up_no_connection_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "_ANSWER_S", 1.0)
    async with metadata_broker() as sound, metadata_broker() as hanging:
        sound.nodes = {0: sound.port, 1: hanging.port}
        hanging.hangs = True
        async with _client(sound.port) as client:
            stuck = [asyncio.create_task(client.ready(1)) for _ in range(3)]
            assert await client.ready(0)
            assert not any(task.done() for task in stuck)
            assert await asyncio.gather(*stuck) == [False] * 3
            assert hanging.connections == 1  # they share one try


async def test_broker_that_hangs_does_not_hold_up_an_update_of_metadata(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        metadata_broker() as sound,
        metadata_broker() as hanging,
        _client(sound.port) as client,
    ):
        hanging.nodes = sound.nodes = {7: hanging.port}
        assert await client.force_metadata_update()
        hanging.hangs = True
        monkeypatch.setattr(recovery, "_ANSWER_S", 0.3)
        sound.nodes = {0: sound.port}
        assert await client.force_metadata_update()
        assert [broker.nodeId for broker in client.cluster.brokers()] == [0]


async def test_coordinator_is_asked_for_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_ANSWER_S", 0.3)
    async with metadata_broker() as broker, _client(broker.port) as client:
        broker.hangs = True
        with pytest.raises(RequestTimedOutError):
            await client.coordinator_lookup(CoordinationType.GROUP, "views")


async def test_connection_to_where_a_broker_was_is_closed() -> None:
    async with metadata_broker() as before, metadata_broker() as after, _client(before.port) as one:
        assert await one.ready(0)
        before.nodes = {0: after.port}
        assert await one.force_metadata_update()
        assert await one.ready(0)
        assert one._conns[(0, 0)].port == after.port


async def test_every_client_of_the_process_finds_brokers_again() -> None:
    recover_brokers()
    consumer, producer, admin = AIOKafkaConsumer(), AIOKafkaProducer(), AIOKafkaAdminClient()
    clients = (consumer._client, producer.client, admin._client)
    await consumer.stop()
    await producer.stop()
    await admin.close()
    assert all(isinstance(client, RecoveringClient) for client in clients)


async def test_client_that_is_closed_while_it_connects_cancels_nobody_who_waits() -> None:
    async with metadata_broker() as sound, metadata_broker() as hanging:
        sound.nodes = {0: sound.port, 1: hanging.port}
        hanging.hangs = True
        async with _client(sound.port) as client:
            waiting = asyncio.create_task(client.ready(1))
            left = asyncio.create_task(client.ready(1))
            await asyncio.wait_for(hanging.connected.wait(), 5)
            left.cancel()
            assert (await asyncio.gather(left, return_exceptions=True))[0].__class__ is (
                asyncio.CancelledError
            )
        assert await waiting is False


async def test_name_that_hangs_holds_up_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_NEXT_NAME_S", 0.05)
    async with metadata_broker() as sound, metadata_broker() as hanging:
        hanging.hangs = True
        # The test ends long before any of those that hang is given up.
        names = [f"{HOST}:{hanging.port}"] * 5 + [f"{HOST}:{sound.port}"]
        recover_brokers()
        client = RecoveringClient(bootstrap_servers=names)
        try:
            async with asyncio.timeout(recovery._ANSWER_S / 2):
                await client.bootstrap()
            assert client.cluster.broker_metadata(0).port == sound.port
        finally:
            await client.close()


@pytest.mark.parametrize("hangs_at", ["the connection", "the question"])
async def test_names_that_all_hang_are_told_in_time_with_why(
    monkeypatch: pytest.MonkeyPatch, hangs_at: str
) -> None:
    monkeypatch.setattr(recovery, "_ANSWER_S", 0.3)
    monkeypatch.setattr(recovery, "_NEXT_NAME_S", 0.05)
    async with metadata_broker() as broker:
        broker.hangs = hangs_at == "the connection"
        broker.is_mute = True
        client = RecoveringClient(bootstrap_servers=f"{HOST}:{broker.port},{HOST}:{broker.port}")
        recover_brokers()
        try:
            with pytest.raises(KafkaConnectionError) as told:
                async with asyncio.timeout(5):
                    await client.bootstrap()
        finally:
            await client.close()
        assert str(told.value).count(f"{HOST}:{broker.port}: no answer within 0.3 s") == 2
