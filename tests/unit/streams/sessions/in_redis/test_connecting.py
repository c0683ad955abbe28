from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from millstream.streams.sessions.in_redis.connecting import Client, RedisConnections
from millstream.streams.settings import Settings


async def test_call_whose_connection_ends_as_it_is_written_to_is_made_once_more() -> None:
    connections = RedisConnections(Settings(redis_url="redis://127.0.0.1:1/0"))
    calls = 0

    async def call(_client: Client) -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            # What asyncio's streams do as their transport is gone: an error of its own kind.
            gone: Any = SimpleNamespace(_transport=None)
            asyncio.StreamWriter.writelines(gone, [b"PING"])
        return "answered"

    assert await connections.ask(call) == "answered"
    assert calls == 2
    await connections.close()


async def test_mistake_of_a_call_is_no_outage() -> None:
    connections = RedisConnections(Settings(redis_url="redis://127.0.0.1:1/0"))

    async def call(_client: Client) -> NoReturn:
        raise TypeError("a mistake")  # noqa: EM101  as Python itself does

    with pytest.raises(TypeError, match="a mistake"):
        await connections.ask(call)
    await connections.close()
