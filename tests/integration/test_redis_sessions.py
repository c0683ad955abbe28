from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.asyncio

from millstream.infra.redis import RedisServer, find_redis_server
from millstream.schemas.errors import ForeignKey, Misconfigured, ServiceUnavailable
from millstream.streams.sessions.paging import SessionLimits
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from tests.contracts.session_store_contract import (
    SESSIONS_PER_USER_MAX,
    SessionStoreContract,
    checkpoint,
    result,
)
from tests.services.probes import free_port


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[RedisSessionStore]:
    limits = SessionLimits(ttl_s=60, sessions_per_user_max=SESSIONS_PER_USER_MAX)
    store = RedisSessionStore(settings, limits)
    yield store
    await store.close()


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(settings.redis_url, decode_responses=True)
    yield client
    await client.aclose()


class TestRedisSessionStore(SessionStoreContract):
    pass


async def test_every_key_has_a_time_to_live_and_one_hash_tag_per_user(
    store: RedisSessionStore, client: redis.asyncio.Redis, settings: Settings
) -> None:
    await store.put_checkpoint(checkpoint(user="a}d{a"), 1)
    await store.note_result(result("other", user="a}d{a"), 1)
    keys = [key async for key in client.scan_iter(f"{settings.namespace}:*")]
    assert len(keys) == 3
    assert {key.split("}")[0] for key in keys} == {f"{settings.namespace}:{{default/a%7Dd%7Ba"}
    assert all([0 < await client.ttl(key) <= 60 for key in keys])


async def test_corrupt_content_counts_as_absent_and_is_replaced_by_the_next_checkpoint(
    store: RedisSessionStore, client: redis.asyncio.Redis, settings: Settings
) -> None:
    await store.put_checkpoint(checkpoint(), 1)
    await client.hset(f"{settings.namespace}:{{default/ada}}:session:s", "checkpoint", "{broken")
    assert await store.get_checkpoint("default", "ada", "s") is None
    await store.put_checkpoint(checkpoint(turn=2), 2)
    assert await store.get_checkpoint("default", "ada", "s") is not None


async def test_a_redis_that_is_away_is_said_to_be_unavailable(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    store = RedisSessionStore(away)
    with pytest.raises(ServiceUnavailable):
        await store.put_checkpoint(checkpoint(), 1)
    with pytest.raises(ServiceUnavailable):
        await store.list("default", "ada", limit=1)
    await store.close()


class OddRedis(RedisServer):
    """A Redis of a test's own, with options of its own."""

    more: tuple[str, ...] = ()

    def _options(self) -> tuple[str, ...]:
        return (*super()._options(), *self.more)


@asynccontextmanager
async def odd_redis(
    settings: Settings, folder: Path, *options: str, port: int = 0
) -> AsyncIterator[Settings]:
    server = OddRedis(folder, port or free_port(), find_redis_server())
    server.more = options
    await server.start()
    try:
        yield settings.model_copy(update={"redis_url": server.url})
    finally:
        await server.stop()


@asynccontextmanager
async def store_of(settings: Settings, **given: Any) -> AsyncIterator[RedisSessionStore]:
    store = RedisSessionStore(settings, **given)
    try:
        yield store
    finally:
        await store.close()


def session_key(settings: Settings, session: str = "s") -> str:
    return f"{settings.namespace}:{{default/ada}}:session:{session}"


async def test_a_node_of_a_cluster_is_refused(settings: Settings, tmp_path: Path) -> None:
    async with (
        odd_redis(settings, tmp_path, "--cluster-enabled", "yes") as odd,
        store_of(odd) as store,
    ):
        with pytest.raises(Misconfigured, match="a node of a Redis Cluster"):
            await store.refuse_cluster()


async def test_a_node_of_a_cluster_that_comes_later_is_not_used_and_the_reason_says_why(
    settings: Settings, tmp_path: Path
) -> None:
    port = free_port()
    later = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"})
    async with store_of(later) as store:
        with pytest.raises(ServiceUnavailable, match="does not answer"):
            await store.refuse_cluster()
        async with odd_redis(settings, tmp_path, "--cluster-enabled", "yes", port=port):
            for _ in range(2):
                with pytest.raises(ServiceUnavailable, match="a node of a Redis Cluster"):
                    await store.put_checkpoint(checkpoint(), 1)
        # In its place one that is none, some time later.
        async with odd_redis(settings, tmp_path, port=port):
            assert await store.put_checkpoint(checkpoint(), 1)


async def test_a_redis_that_does_not_say_whether_it_is_a_cluster_is_taken(
    settings: Settings, tmp_path: Path
) -> None:
    denied = ("--user", "default", "on", "nopass", "~*", "&*", "+@all", "-info")
    async with odd_redis(settings, tmp_path, *denied) as odd, store_of(odd) as store:
        await store.refuse_cluster()
        assert await store.put_checkpoint(checkpoint(), 1)


async def test_a_redis_that_is_no_cluster_is_taken(store: RedisSessionStore) -> None:
    await store.refuse_cluster()
    await store.check_writes()


async def test_the_server_that_a_name_leads_to_after_a_failover_is_found(
    settings: Settings, tmp_path: Path
) -> None:
    # redis/redis-py#460, alphagov/notifications-utils#1279: the old primary keeps its connections.
    async with (
        odd_redis(settings, tmp_path / "first") as first,
        odd_redis(settings, tmp_path / "second") as second,
        named(first) as (name, leads_to),
        store_of(name) as store,
    ):
        assert await store.put_checkpoint(checkpoint(), 1)
        old = redis.asyncio.Redis.from_url(first.redis_url)
        await old.replicaof("127.0.0.1", "1")
        await old.aclose()
        leads_to(second)
        with pytest.raises(ServiceUnavailable, match="read only replica"):
            await store.put_checkpoint(checkpoint(turn=2), 2)
        assert await store.put_checkpoint(checkpoint(turn=2), 2)


@asynccontextmanager
async def named(
    at: Settings,
) -> AsyncIterator[tuple[Settings, Callable[[Settings], None]]]:
    """Give an address that leads new connections to a server, and what has it lead to another."""
    ports = [urlsplit(at.redis_url).port]

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while some := await source.read(65_536):
                sink.write(some)
        finally:
            sink.close()

    async def lead(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        there, to = await asyncio.open_connection("127.0.0.1", ports[-1])
        await asyncio.gather(carry(source, to), carry(there, sink))

    def leads_to(other: Settings) -> None:
        ports.append(urlsplit(other.redis_url).port)

    server = await asyncio.start_server(lead, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    try:
        yield at.model_copy(update={"redis_url": url}), leads_to
    finally:
        server.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--replicaof", "127.0.0.1", "1"), "read only replica"),
        (("--maxmemory", "1"), "maxmemory"),
    ],
    ids=["read-only", "out-of-memory"],
)
async def test_a_redis_that_takes_no_writes_is_unavailable_for_writes_and_read_all_the_same(
    settings: Settings, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    async with odd_redis(settings, tmp_path, *options) as odd, store_of(odd) as store:
        with pytest.raises(ServiceUnavailable, match=words):
            await store.check_writes()
        with pytest.raises(ServiceUnavailable, match=words):
            await store.put_checkpoint(checkpoint(), 1)
        assert await store.get_checkpoint("default", "ada", "s") is None


@pytest.mark.parametrize(
    "damage",
    [
        {"checkpoint": b"\xff\xfe"},
        {"checkpoint": b"{}"},
        {"checkpoint": b"[" * 100_000},
        {"offset": b"\xff"},
        {"offset": b"1e999"},
        {"turn": b"many"},
        {"turn": b"\xff"},
        {"request": b"\xff"},
        {"updated": b""},
    ],
    ids=str,
)
async def test_what_cannot_be_read_of_a_session_stops_no_other(
    settings: Settings, client: redis.asyncio.Redis, damage: dict[str, bytes]
) -> None:
    told: list[None] = []
    async with store_of(settings, on_unreadable=lambda: told.append(None)) as store:
        await store.put_checkpoint(checkpoint(), 1)
        await store.put_checkpoint(checkpoint("other"), 2)
        await client.hset(session_key(settings), mapping=damage)
        kept = await store.get_checkpoint("default", "ada", "s")
        page = await store.list("default", "ada", limit=9)
        assert "other" in [head.session_id for head in page.sessions]
        if {"checkpoint", "offset"} & damage.keys():
            assert kept is None
        else:
            assert "s" not in [head.session_id for head in page.sessions]
            assert await store.get("default", "ada", "s") is None
        assert told
        assert await store.put_checkpoint(checkpoint(turn=2), 3)
        assert await store.get_checkpoint("default", "ada", "s") is not None
        assert len((await store.list("default", "ada", limit=9)).sessions) == 2


async def test_names_in_an_index_that_are_none_of_the_views_are_passed_over(
    settings: Settings, store: RedisSessionStore, client: redis.asyncio.Redis
) -> None:
    await store.put_checkpoint(checkpoint(), 1)
    odd = {b"\xff": 1, "%ff": 2, "a b": 3, "ä": 4, "far": math.inf, "gone": 5}
    await client.zadd(f"{settings.namespace}:{{default/ada}}:sessions", odd)
    page = await store.list("default", "ada", limit=9)
    assert [head.session_id for head in page.sessions] == ["s"]


async def test_a_key_of_another_type_stops_no_other_and_is_left_as_it_is(
    settings: Settings, client: redis.asyncio.Redis
) -> None:
    told: list[None] = []
    await client.set(session_key(settings), "mine")
    async with store_of(settings, on_unreadable=lambda: told.append(None)) as store:
        with pytest.raises(ForeignKey, match="is of another type"):
            await store.put_checkpoint(checkpoint(), 1)
        with pytest.raises(ForeignKey, match="is of another type"):
            await store.note_result(result(), 1)
        await store.put_checkpoint(checkpoint("other"), 2)
        index = f"{settings.namespace}:{{default/ada}}:sessions"
        await client.zadd(index, {"s": 5000})
        assert await store.get_checkpoint("default", "ada", "s") is None
        assert await store.get("default", "ada", "s") is None
        page = await store.list("default", "ada", limit=9)
        assert [head.session_id for head in page.sessions] == ["other"]
        assert len(told) == 3
        assert await store.foreign_keys() == [session_key(settings)]
        assert await client.get(session_key(settings)) == "mine"


async def test_an_index_of_another_type_leaves_nothing_half_written(
    settings: Settings, store: RedisSessionStore, client: redis.asyncio.Redis
) -> None:
    index = f"{settings.namespace}:{{default/ada}}:sessions"
    await client.set(index, "mine")
    with pytest.raises(ForeignKey, match="sessions' is of another type"):
        await store.put_checkpoint(checkpoint(), 1)
    assert not await client.exists(session_key(settings))
    assert await store.foreign_keys() == [index]
