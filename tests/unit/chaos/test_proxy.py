from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from millstream.infra.ports import HOST, choose_ports
from tests.chaos.proxy import Proxy, proxied
from tests.support import eventually

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(100):
        writer.write(chunk)
    writer.close()


@pytest.fixture
async def way() -> AsyncIterator[tuple[Proxy, int]]:
    """A proxy in front of an echo, and its port."""
    echo = await asyncio.start_server(_echo, HOST, 0)
    target: int = echo.sockets[0].getsockname()[1]
    port = choose_ports(["proxy"], {})["proxy"]
    async with proxied(port, HOST, target) as proxy:
        yield proxy, port
    echo.close()
    await echo.wait_closed()


async def test_what_is_cut_arrives_once_healed(way: tuple[Proxy, int]) -> None:
    proxy, port = way
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    proxy.cut()
    writer.write(b"two")
    answer = asyncio.create_task(reader.readexactly(3))
    done, _ = await asyncio.wait([answer], timeout=0.1)
    assert not done
    proxy.heal()
    assert await answer == b"two"
    writer.close()


async def test_what_is_torn_ends_and_is_refused_until_healed(way: tuple[Proxy, int]) -> None:
    proxy, port = way
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"one")
    await reader.readexactly(3)
    proxy.tear()
    assert await reader.read() == b""
    writer.close()
    reader, writer = await asyncio.open_connection(HOST, port)
    assert await reader.read() == b""
    writer.close()
    proxy.heal()
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"two")
    assert await reader.readexactly(3) == b"two"
    writer.close()
    await eventually(lambda: proxy.connections == 2)


async def test_latency_is_added_on_each_way(way: tuple[Proxy, int]) -> None:
    proxy, port = way
    proxy.latency_s = 0.05
    reader, writer = await asyncio.open_connection(HOST, port)
    loop = asyncio.get_running_loop()
    began = loop.time()
    writer.write(b"one")
    await reader.readexactly(3)
    assert loop.time() - began >= 0.1
    writer.close()
