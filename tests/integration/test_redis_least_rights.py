"""The view of sessions as a Redis user of few rights, tried for what went wrong elsewhere.

Public reports: redis/ioredis#1211 and redis/RedisInsight#2949, no connection without INFO, which is
one of the commands that Redis calls dangerous; redis/redis-vl-python#673, none without CLIENT
SETINFO; redis/lettuce#1379, none without HELLO.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import redis.asyncio

from millstream.schemas.errors import ServiceUnavailable
from millstream.streams.sessions.paging import SessionLimits
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from tests.contracts.session_view_contract import CHECKPOINTS_MAX, SessionViewContract
from tests.harness.redis_servers import redis_cluster, redis_server

OF_A_CLUSTER = "+@all -@admin -@dangerous +cluster|slots"
PASSWORD = "redis-p@ss:/?#%41"  # noqa: S105  the tests' own
RIGHTS = {
    "nothing dangerous": "+@all -@admin -@dangerous",
    "no words about connections": "+@all -@admin -@dangerous -@connection +auth +ping",
    "only what is read and written": "-@all +@read +@write +@scripting +ping +select",
}


async def let_in(url: str, namespace: str, rights: str) -> None:
    """Make a user of one namespace."""
    admin: Any = redis.asyncio.Redis.from_url(url)
    try:
        await admin.execute_command(
            *("ACL", "SETUSER", namespace, "reset", "on", f">{PASSWORD}"),
            *(f"~{namespace}:*", *rights.split()),
        )
    finally:
        await admin.aclose()


def store_of(url: str, namespace: str) -> RedisSessionStore:
    settings = Settings(
        redis_url=url, namespace=namespace, redis_username=namespace, redis_password=PASSWORD
    )
    limits = SessionLimits(checkpoints_per_session_max=CHECKPOINTS_MAX)
    return RedisSessionStore(settings, limits, clock_ms=lambda: 0)


@pytest.fixture(scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with redis_server(tmp_path_factory.mktemp("one")) as server:
        yield server.url


@pytest.fixture(scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, str]]:
    async with redis_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


class TestSessionViewOfFewRights(SessionViewContract):
    @pytest.fixture(params=RIGHTS)
    async def store(
        self, one: str, request: pytest.FixtureRequest
    ) -> AsyncIterator[RedisSessionStore]:
        namespace = f"t{uuid4().hex[:8]}"
        await let_in(one, namespace, RIGHTS[request.param])
        store = store_of(one, namespace)
        yield store
        await store.close()


class TestSessionViewOfFewRightsOnACluster(SessionViewContract):
    @pytest.fixture(params=["redis", "redis+cluster"])
    async def store(
        self, nodes: tuple[str, str], request: pytest.FixtureRequest
    ) -> AsyncIterator[RedisSessionStore]:
        namespace = f"t{uuid4().hex[:8]}"
        for node in nodes:
            await let_in(f"redis://{node}", namespace, OF_A_CLUSTER)
        store = store_of(f"{request.param}://{nodes[0]}", namespace)
        yield store
        await store.close()


@pytest.mark.parametrize("rights", RIGHTS)
async def test_all_that_a_view_and_doctor_ask_is_answered(one: str, rights: str) -> None:
    namespace = f"t{uuid4().hex[:8]}"
    await let_in(one, namespace, RIGHTS[rights])
    store = store_of(one, namespace)
    try:
        await store.ping()
        await store.check_writes()
        assert await store.foreign_keys() == []
        assert await store.marks.read() == {}
        assert not store.connections.is_cluster
    finally:
        await store.close()


async def test_a_node_of_a_cluster_is_known_for_one_without_info(nodes: tuple[str, str]) -> None:
    namespace = f"t{uuid4().hex[:8]}"
    for node in nodes:
        await let_in(f"redis://{node}", namespace, OF_A_CLUSTER)
    store = store_of(f"redis://{nodes[1]}", namespace)
    try:
        assert await store.marks.read() == {}
        assert store.connections.is_cluster
    finally:
        await store.close()


async def test_a_right_that_lacks_is_named_also_where_a_client_says_something_else(
    nodes: tuple[str, str],
) -> None:
    namespace = f"t{uuid4().hex[:8]}"
    for node in nodes:
        await let_in(f"redis://{node}", namespace, RIGHTS["nothing dangerous"])
    store = store_of(f"redis+cluster://{nodes[0]}", namespace)
    try:
        with pytest.raises(ServiceUnavailable, match="its user lacks a right"):
            await store.check_writes()
    finally:
        await store.close()


async def test_a_password_of_odd_signs_may_stand_in_a_url_or_by_itself(
    one: str, tmp_path: Path
) -> None:
    namespace = f"t{uuid4().hex[:8]}"
    await let_in(one, namespace, "+@all")
    port = urlsplit(one).port
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    for more in (
        {"redis_url": f"redis://{namespace}:redis-p%40ss%3A%2F%3F%23%2541@127.0.0.1:{port}/0"},
        {"redis_username": namespace, "redis_password_file": file},
    ):
        store = RedisSessionStore(
            Settings(**{"redis_url": one, "namespace": namespace, **more})  # type: ignore[arg-type]
        )
        try:
            await store.ping()
        finally:
            await store.close()
