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

from millstream.schemas.errors import ForeignKey, ServiceUnavailable
from millstream.streams.sessions.paging import SessionLimits
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from tests import making
from tests.contracts.session_store_contract import (
    SESSIONS_PER_USER_MAX,
    SessionStoreContract,
    checkpoint,
    result,
)
from tests.contracts.session_view_contract import (
    CHECKPOINTS_MAX,
    SessionViewContract,
    everything,
    state,
)
from tests.harness.redis_servers import redis_server


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[RedisSessionStore]:
    limits = SessionLimits(ttl_s=60, sessions_per_user_max=SESSIONS_PER_USER_MAX)
    store = RedisSessionStore(settings, limits, clock_ms=lambda: 0)
    yield store
    await store.close()


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(settings.redis_url, decode_responses=True)
    yield client
    await client.aclose()


class TestRedisSessionStore(SessionStoreContract):
    pass


class TestRedisSessionView(SessionViewContract):
    @pytest.fixture
    async def store(self, settings: Settings) -> AsyncIterator[RedisSessionStore]:
        limits = SessionLimits(ttl_s=60, checkpoints_per_session_max=CHECKPOINTS_MAX)
        async with store_of(settings, limits=limits, clock_ms=lambda: 0) as store:
            yield store


async def test_every_key_has_a_time_to_live_and_one_hash_tag_per_user(
    store: RedisSessionStore, client: redis.asyncio.Redis, settings: Settings
) -> None:
    await store.put_checkpoint(checkpoint(user="a}d{a"), 1)
    await store.note_result(result("other", user="a}d{a"), 1)
    keys = [key async for key in client.scan_iter(f"{settings.namespace}:*")]
    assert len(keys) == 6
    assert {key.split("}")[0] for key in keys} == {f"{settings.namespace}:{{default/a%7Dd%7Ba"}
    assert all([0 < await client.ttl(key) <= 60 for key in keys])


async def test_corrupt_content_counts_as_absent_and_is_replaced_by_the_next_checkpoint(
    store: RedisSessionStore, client: redis.asyncio.Redis, settings: Settings
) -> None:
    await store.put_checkpoint(checkpoint(), 1)
    await client.hset(checkpoint_key(settings), "checkpoint", "{broken")
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


@asynccontextmanager
async def odd_redis(settings: Settings, folder: Path, *options: str) -> AsyncIterator[Settings]:
    async with redis_server(folder, *options) as server:
        yield settings.model_copy(update={"redis_url": server.url})


@asynccontextmanager
async def store_of(settings: Settings, **given: Any) -> AsyncIterator[RedisSessionStore]:
    store = RedisSessionStore(settings, **given)
    try:
        yield store
    finally:
        await store.close()


def session_key(settings: Settings, session: str = "s") -> str:
    return f"{settings.namespace}:{{default/ada}}:session:{session}"


def checkpoint_key(settings: Settings) -> str:
    return f"{settings.namespace}:{{default/ada}}:checkpoint:s"


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
        {"head": b"{}"},
        {"whole": b"\xff"},
        {"status": b"odd"},
        {"ended": b"\xff"},
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
        is_checkpoint = bool({"checkpoint", "offset"} & damage.keys())
        key = checkpoint_key(settings) if is_checkpoint else session_key(settings)
        await client.hset(key, mapping=damage)
        kept = await store.get_checkpoint("default", "ada", "s")
        page = await store.list("default", "ada", limit=9)
        assert "other" in [head.session_id for head in page.sessions]
        if is_checkpoint:
            assert kept is None
        else:
            assert "s" not in [head.session_id for head in page.sessions]
            assert await store.get("default", "ada", "s") is None
        assert told
        assert await store.put_checkpoint(checkpoint(turn=2), 3)
        assert await store.put_head(making.head(turn=2, session_id="s"), 3)
        assert await store.put_state(state())
        assert await store.note_result(result(), 3)
        assert await store.get_checkpoint("default", "ada", "s") is not None
        assert len((await store.list("default", "ada", limit=9)).sessions) == 2


async def test_names_in_an_index_that_are_none_of_the_views_are_passed_over(
    settings: Settings, store: RedisSessionStore, client: redis.asyncio.Redis
) -> None:
    await store.put_checkpoint(checkpoint(), 1)
    odd = {b"\xff": 1, "%ff": 2, "a b": 3, "ä": 4, "far": math.inf, "gone": 5}
    await client.zadd(f"{settings.namespace}:{{default/ada}}:sessions", odd)
    at = "000000000000009:"
    odd_places = [b"\xff", "a", "9:s", f"{at}a b", f"{at}%ff", f"{at}ä", at, f"{at}gone"]
    await client.zadd(f"{settings.namespace}:{{default/ada}}:places", dict.fromkeys(odd_places, 0))
    for order in ("newest", "oldest"):
        page = await store.list("default", "ada", limit=9, order=order)
        assert [head.session_id for head in page.sessions] == ["s"]
        pages = [one.session_id async for one in everything(store, limit=1, order=order)]
        assert pages == ["s"]
    assert (await store.stats("default", "ada")).open == 1
    # What is no session any more is cleared away, what nobody of ours wrote is not.
    assert await client.zcard(f"{settings.namespace}:{{default/ada}}:places") == len(odd_places)


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
        places = f"{settings.namespace}:{{default/ada}}:places"
        await client.zadd(places, {"000000000005000:s": 0})
        assert await store.get_checkpoint("default", "ada", "s") is None
        assert await store.get("default", "ada", "s") is None
        page = await store.list("default", "ada", limit=9)
        assert [head.session_id for head in page.sessions] == ["other"]
        assert len(told) == 2
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
