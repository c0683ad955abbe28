"""The session view on a Redis Cluster and behind a sentinel, real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import redis.asyncio

from millstream.schemas.errors import Misconfigured, ServiceUnavailable
from millstream.streams.sessions.paging import SessionLimits
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from tests import making
from tests.contracts.session_store_contract import (
    SESSIONS_PER_USER_MAX,
    SessionStoreContract,
    checkpoint,
)
from tests.contracts.session_view_contract import CHECKPOINTS_MAX, SessionViewContract, state
from tests.harness.redis_servers import RedisWatch, redis_cluster, redis_watch
from tests.support import eventually

USERS = [f"u{number}" for number in range(1, 7)]


@asynccontextmanager
async def store_at(
    url: str, limits: SessionLimits | None = None
) -> AsyncIterator[RedisSessionStore]:
    settings = Settings(redis_url=url, namespace=f"t{uuid4().hex[:8]}")
    store = RedisSessionStore(settings, limits, clock_ms=lambda: 0)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, str]]:
    async with redis_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture(scope="module")
async def watch(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisWatch]:
    async with redis_watch(tmp_path_factory.mktemp("watch")) as watch:
        yield watch


class TestSessionStoreOnACluster(SessionStoreContract):
    @pytest.fixture
    async def store(self, nodes: tuple[str, str]) -> AsyncIterator[RedisSessionStore]:
        limits = SessionLimits(sessions_per_user_max=SESSIONS_PER_USER_MAX)
        async with store_at(f"redis+cluster://{','.join(nodes)}", limits) as store:
            yield store


class TestSessionViewOnACluster(SessionViewContract):
    @pytest.fixture
    async def store(self, nodes: tuple[str, str]) -> AsyncIterator[RedisSessionStore]:
        limits = SessionLimits(checkpoints_per_session_max=CHECKPOINTS_MAX)
        async with store_at(f"redis+cluster://{','.join(nodes)}", limits) as store:
            yield store


class TestSessionViewBehindASentinel(SessionViewContract):
    @pytest.fixture
    async def store(self, watch: RedisWatch) -> AsyncIterator[RedisSessionStore]:
        limits = SessionLimits(checkpoints_per_session_max=CHECKPOINTS_MAX)
        async with store_at(watch.url, limits) as store:
            yield store


@pytest.mark.parametrize(
    "form", ["redis://{0}/0", "redis+cluster://{1}", "redis+cluster://{1},{0}"]
)
async def test_every_user_of_a_cluster_has_its_sessions_whichever_node_is_named(
    nodes: tuple[str, str], form: str
) -> None:
    async with store_at(form.format(*nodes)) as store:
        for user in USERS:
            for turn in (1, 2):
                await store.put_checkpoint(checkpoint(user=user, turn=turn), turn)
        for user in USERS:
            page = await store.list("default", user, limit=9)
            assert [(one.session_id, one.turn) for one in page.sessions] == [("s", 2)]
        assert (await store.stats_of_all()).open == len(USERS)
        assert await store.foreign_keys() == []
        await store.ping()
        await store.check_writes()


async def test_all_of_a_cluster_is_looked_through_before_anything_else_is_asked_of_it(
    nodes: tuple[str, str],
) -> None:
    async with store_at(f"redis+cluster://{nodes[0]}") as whole:
        for user in USERS:
            await whole.put_state(state(user=user))
        settings = Settings(redis_url=f"redis://{nodes[1]}/0", namespace=whole.prefix)
        store = RedisSessionStore(settings)
        assert (await store.stats_of_all()).open == len(USERS)
        await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://127.0.0.1:1,127.0.0.1:2",
        "redis+sentinel://127.0.0.1:1/mymaster",
        "redis+sentinel://{}/another",
    ],
)
async def test_what_is_away_is_said_to_be_unavailable(watch: RedisWatch, url: str) -> None:
    async with store_at(url.format(f"127.0.0.1:{watch.port}")) as store:
        with pytest.raises(ServiceUnavailable):
            await store.put_checkpoint(checkpoint(), 1)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:6379",
        "redis+ring://127.0.0.1:6379",
        "redis://one:1,two:2",
        "redis+sentinel://127.0.0.1:26379",
        "redis+cluster://:secret@host:port",
        "redis+sentinel://host/service/nought",
        "redis://host:secret",
        "rediss+cluster://host?max_connections=many",
        "rediss+cluster://host?no_such_option=1",
    ],
)
async def test_a_url_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"redis\+sentinel://HOST:PORT") as refused:
        RedisSessionStore(Settings(redis_url=url))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:pass@host:1/3",
        "rediss://host/0?ssl_cert_reqs=none",
        "unix:///tmp/redis.sock?db=1",
        "redis+cluster://user:pass@one:1,two",
        "rediss+cluster://[::1]:7000,host:7001?ssl_ca_certs=/etc/ca.pem",
        "redis+sentinel://user:pass@one:1,two/service/2?sentinel_password=other",
        "rediss+sentinel://one/service",
    ],
)
async def test_every_form_of_a_url_is_taken(url: str) -> None:
    await RedisSessionStore(Settings(redis_url=url)).close()


@pytest.mark.parametrize(
    "change", [RedisWatch.kill_master, pytest.param(RedisWatch.swap, marks=pytest.mark.slow)]
)
async def test_view_goes_on_with_the_replica_once_the_sentinel_has_made_it_the_master(
    tmp_path: Path, change: Callable[[RedisWatch], Awaitable[None]]
) -> None:
    async with redis_watch(tmp_path) as watch, store_at(watch.url) as store:
        await store.put_head(making.head(session_id="s"), 1)
        await change(watch)

        async def goes_on() -> bool:
            try:
                return await store.put_head(making.head(2, session_id="s"), 2)
            except ServiceUnavailable:
                return False

        await eventually(goes_on, timeout_s=20)
        shown = await store.get("default", "ada", "s")
        assert shown is not None
        assert shown.turn == 2


async def test_node_that_has_forgotten_the_scripts_is_told_of_them_again(
    nodes: tuple[str, str],
) -> None:
    async with store_at(f"redis+cluster://{nodes[0]}") as store:
        for number, user in enumerate(USERS, start=1):
            await store.put_state(state(user=user))
            for node in nodes:
                async with redis.asyncio.Redis.from_url(f"redis://{node}") as client:
                    await client.script_flush()
            assert await store.put_head(making.head(user_id=user, session_id="s"), number)


async def test_more_callers_than_connections_wait_for_one(nodes: tuple[str, str]) -> None:
    async with store_at(f"redis+cluster://{nodes[0]}") as store:
        puts = (store.put_state(state(f"s{number}")) for number in range(300))
        assert all(await asyncio.gather(*puts))
        assert (await store.stats("default", "ada")).open == 300
