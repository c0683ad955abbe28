from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from millstream.schemas.errors import ServiceUnavailable
from millstream.streams.sessions.paging import SessionLimits
from millstream.streams.sessions.redis import RedisSessionStore
from millstream.streams.settings import Settings
from tests.contracts.session_store_contract import (
    SESSIONS_PER_USER_MAX,
    SessionStoreContract,
    checkpoint,
    result,
)


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
